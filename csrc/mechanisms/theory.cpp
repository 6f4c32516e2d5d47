#include "mechanisms/theory.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "mechanisms/bidirectional.h"
#include "mechanisms/diana.h"
#include "mechanisms/direct.h"
#include "mechanisms/error_feedback.h"

namespace tsq {

namespace {

ThreePoint constants_of(const Mechanism& m, size_t n, uint32_t world_size) {
  const auto found = m.three_point(n, world_size);
  if (!found) throw ArgumentError("safe_step: no constants are known for " + m.spec());
  return *found;
}

}  // namespace

double safe_step(const Mechanism& mechanism, double l_minus, double l_plus, size_t n, uint32_t world_size) {
  if (!(l_minus > 0 && l_plus > 0))
    throw ArgumentError(concat("safe_step: L_minus, L_plus: expected positive numbers, got ", l_minus, ", ", l_plus));
  if (const auto* both = dynamic_cast<const Bidirectional*>(&mechanism)) {
    const ThreePoint w = constants_of(*both->up(), n, world_size), m = constants_of(*both->down(), n, 1);
    const double K = w.B / w.A * (1 + 3 * m.B * (2 - w.A) / m.A) + 3 * m.B * (1 + w.B) / m.A;
    return 1 / (l_minus + l_plus * std::sqrt(2 * K));
  }
  if (dynamic_cast<const ErrorFeedback*>(&mechanism)) {
    const auto alpha = mechanism.compressor().class_of(n, world_size).alpha;
    if (!alpha) throw ArgumentError("safe_step: no constants are known for " + mechanism.spec());
    return *alpha / (4 * l_minus);
  }
  const ThreePoint c = constants_of(mechanism, n, world_size);
  return 1 / (l_minus + l_plus * std::sqrt(c.B / c.A));
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
