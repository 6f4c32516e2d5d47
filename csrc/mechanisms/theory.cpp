#include "mechanisms/theory.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "mechanisms/bidirectional.h"
#include "mechanisms/diana.h"
#include "mechanisms/direct.h"
#include "mechanisms/ef21.h"
#include "mechanisms/error_feedback.h"

namespace tsq {

namespace {

ThreePoint constants_of(const Mechanism& m, size_t n, uint32_t world_size) {
  const auto found = m.three_point(n, world_size);
  if (!found) throw ArgumentError("safe_step: no constants are known for " + m.spec());
  return *found;
}

double alpha_of(const Mechanism& m, size_t n, uint32_t world_size) {
  const auto found = m.compressor().class_of(n, world_size).alpha;
  if (!found) throw ArgumentError("safe_step: no constants are known for " + m.spec());
  return *found;
}

bool is_error_feedback(const Mechanism& m) { return dynamic_cast<const ErrorFeedback*>(&m) != nullptr; }

/// Error feedback of the workers (a) and of the server (m).
double two_sided_step(double a, double m, double L) {
  const double K = 4 * (1 - a) / (a * a) * (1 + 24 * (1 - m) / (m * m)) + 12 * (1 - m) * (2 - a) / (m * m * a);
  return 1 / (L * std::max(4.0, std::sqrt(8 * K)));
}

}  // namespace

double safe_step(const Mechanism& mechanism, double l_minus, double l_plus, size_t n, uint32_t world_size, double mu) {
  if (!(l_minus > 0 && l_plus > 0))
    throw ArgumentError(concat("safe_step: L_minus, L_plus: expected positive numbers, got ", l_minus, ", ", l_plus));
  if (!(mu >= 0)) throw ArgumentError(concat("safe_step: mu: expected a number of at least 0, got ", mu));
  const auto* both = dynamic_cast<const Bidirectional*>(&mechanism);
  const auto* ef21 = dynamic_cast<const EF21*>(&mechanism);
  if (mu > 0 && (both || is_error_feedback(mechanism) || (ef21 && ef21->momentum())))
    throw ArgumentError(concat("safe_step: mu: expected 0 for ", mechanism.spec(), ", got ", mu));
  if (both && is_error_feedback(*both->up()) && is_error_feedback(*both->down()))
    return two_sided_step(alpha_of(*both->up(), n, world_size), alpha_of(*both->down(), n, 1), l_minus);
  if (both) {
    const ThreePoint w = constants_of(*both->up(), n, world_size), m = constants_of(*both->down(), n, 1);
    const double K = w.B / w.A * (1 + 3 * m.B * (2 - w.A) / m.A) + 3 * m.B * (1 + w.B) / m.A;
    return 1 / (l_minus + l_plus * std::sqrt(2 * K));
  }
  if (is_error_feedback(mechanism)) return alpha_of(mechanism, n, world_size) / (4 * l_minus);
  if (ef21 && ef21->momentum()) {
    const double alpha = alpha_of(mechanism, n, world_size), eta = *ef21->momentum();
    const double ratio = (1 - alpha) / (contraction(alpha) * contraction(alpha));  // B / A
    return 1 / (l_minus + std::sqrt(2 * (4 * ratio * l_plus * l_plus + l_minus * l_minus / (eta * eta))));
  }
  const ThreePoint c = constants_of(mechanism, n, world_size);
  if (mu == 0) return 1 / (l_minus + l_plus * std::sqrt(c.B / c.A));
  return std::min(1 / (l_minus + l_plus * std::sqrt(2 * c.B / c.A)), c.A / (2 * mu));
}

bool scaled_to_contract(const Compressor& compressor, size_t n, uint32_t world_size) {
  const CompressorPtr unbiased = compressor.as_unbiased(), contractive = compressor.as_contractive();
  if (unbiased->spec() != contractive->spec()) return false;  // another map: fitted levels, nearest rounding
  const double omega = unbiased->class_of(n, world_size).omega.value_or(0);
  const Class used = contractive->class_of(n, world_size);
  return omega > 0 && !used.omega && used.alpha;
}

std::vector<Noise> noise_of(const Mechanism& mechanism, const SmoothnessSet& given, bool plus) {
  const bool shifts = dynamic_cast<const Diana*>(&mechanism) != nullptr;
  if (!shifts && !dynamic_cast<const Direct*>(&mechanism))
    throw ArgumentError("convex_step: expected Direct or DIANA, got " + mechanism.spec());
  const CompressorPtr c = mechanism.compressor().as_unbiased();
  std::vector<Noise> out;
  const Whitening whitening(c, given, "", shifts);
  for (const Whitening::Side& side : whitening.sides()) {
    const Compressor& used = plus ? *side.compressor : *c;
    const auto omega = used.class_of(given.numel, given.world_size).omega;
    const auto script = plus    ? used.script_L(*side.smoothness, given.numel, given.world_size)
                        : omega ? std::optional(*omega * side.smoothness->lambda_max())
                                : std::nullopt;
    if (!omega || !script) throw ArgumentError("convex_step: no constants are known for " + mechanism.spec());
    out.push_back({*omega, *script});
  }
  return out;
}

double convex_step(const Mechanism& mechanism, const SmoothnessSet& given, bool plus) {
  double script = 0, mu = HUGE_VAL;
  for (const Noise& noise : noise_of(mechanism, given, plus)) script = std::max(script, noise.script_L);
  for (const SmoothnessPtr& s : given.of_rank) mu = std::min(mu, s->mu());
  const double factor = dynamic_cast<const Diana*>(&mechanism) ? 6 : 2;
  const double L = lambda_max_of_mean(given.of_rank, given.numel);
  if (mu > L * (1 + 1e-9))
    throw ArgumentError(
        concat("convex_step: smoothness: mu: expected at most lambda_max of the mean = ", L, ", got ", mu));
  if (!(L > 0)) throw ArgumentError("convex_step: smoothness: expected one that is not 0");
  return (mu > 0 ? 1.0 : 0.5) / (L + factor * script / static_cast<double>(given.world_size));
}

}  // namespace tsq
