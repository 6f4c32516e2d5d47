// What the compressors that keep coordinates at random, and scale them, share: a rounding and the calculus of classes.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "compressors/compressor.h"

namespace tsq {

/// Rounded to S, to its largest number instead of Inf.
template <class S>
S saturated(double value) {
  constexpr double kLargest = std::numeric_limits<S>::max();
  return static_cast<S>(std::clamp(value, -kLargest, kLargest));
}

/// The class of a random selection in U(omega), if `scaled`, or (unscaled) B(alpha) with E|T x|^2 = alpha |x|^2,
/// followed by a coding of the kept values of class `sent`: U((1 + omega)(1 + omega') - 1), or
/// |x - Q T x|^2 = |x - T x|^2 + |T x - Q T x|^2 <= |x|^2 - alpha' |T x|^2, hence B(alpha alpha').
inline Class random_class(double omega, double alpha, bool scaled, const Class& sent) {
  if (!scaled) return {.omega = std::nullopt, .alpha = sent.alpha ? std::optional(alpha * *sent.alpha) : std::nullopt};
  if (!sent.omega) return {};
  const double both = (1.0 + omega) * (1.0 + *sent.omega) - 1.0;
  return {.omega = both, .alpha = both < 1.0 ? std::optional(1.0 - both) : std::nullopt};
}

/// A bound that a sum of independent 0-1 variables of this mean exceeds with probability below 2^-64: mean + t with
/// t = L/3 + sqrt(L^2/9 + 2 L mean), L = 64 log 2 (Bernstein); at most n.
inline uint64_t entry_bound(double mean, uint64_t n) {
  const double bound = std::ceil(mean + 15.0 + std::sqrt(220.0 + 89.0 * mean));
  return bound >= static_cast<double>(n) ? n : static_cast<uint64_t>(bound);
}

}  // namespace tsq
