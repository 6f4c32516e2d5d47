#include "mechanisms/theory.h"

#include <cmath>

#include "common/error.h"
#include "mechanisms/bidirectional.h"
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

}  // namespace tsq
