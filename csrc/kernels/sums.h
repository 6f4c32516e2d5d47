// Sums over vectors in a fixed order: 32 lanes, element i in lane i mod 32, each in ascending order from 0; then lane
// l += lane l + w for l < w, w = 16, 8, 4, 2, 1. Rules as in quantizer.h: SIMD here for float32 and the oracle in
// tsq::kernels::scalar, the same bits; nothing allocates or throws.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace tsq::kernels {

/// The sum of f(0) ... f(n - 1) in double.
template <class F>
double lane_sum(size_t n, F f) {
  constexpr size_t kLanes = 32;
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (size_t l = 0; l < kLanes; ++l) lanes[l] += f(i + l);
  for (size_t l = 0; i + l < n; ++l) lanes[l] += f(i + l);
  for (size_t w = kLanes / 2; w > 0; w /= 2)
    for (size_t l = 0; l < w; ++l) lanes[l] += lanes[l + w];
  return lanes[0];
}

/// The sum of the magnitudes below `bar`, in double, and how many are not below it.
struct SumBelow {
  double sum;
  uint64_t reached;
};
SumBelow sum_below(const float* x, size_t n, double bar);

/// With y = |x_i| * factor in double: the sums of y * y and of y * max(y, 1).
struct Moments {
  double squares, at_least;
};
Moments moments(const float* x, size_t n, double factor);

/// lanes[i % 32] += (x_i - h_i)^2 for i < n, a multiple of 32, in ascending order; all in float32.
void add_square_distances(const float* x, const float* h, size_t n, float* lanes);

/// The same of x and h and of x and y at once. Returns the largest bits of |x_i|, 0 for n = 0: magnitudes are ordered
/// as their bits are, Inf and NaN last.
uint32_t add_square_distances(const float* x, const float* h, const float* y, size_t n, float* to_h, float* to_y);

namespace scalar {

template <class S>
SumBelow sum_below(const S* x, size_t n, double bar) {
  const auto magnitude = [&](size_t i) { return std::abs(static_cast<double>(x[i])); };
  return {.sum = lane_sum(n, [&](size_t i) { return magnitude(i) < bar ? magnitude(i) : 0.0; }),
          .reached = static_cast<uint64_t>(lane_sum(n, [&](size_t i) { return magnitude(i) < bar ? 0.0 : 1.0; }))};
}

template <class S>
Moments moments(const S* x, size_t n, double factor) {
  const auto y = [&](size_t i) { return std::abs(static_cast<double>(x[i])) * factor; };
  return {.squares = lane_sum(n, [&](size_t i) { return y(i) * y(i); }),
          .at_least = lane_sum(n, [&](size_t i) { return y(i) * (y(i) > 1.0 ? y(i) : 1.0); })};
}

inline void add_square_distances(const float* x, const float* h, size_t n, float* lanes) {
  for (size_t i = 0; i < n; ++i) {
    const float difference = x[i] - h[i];
    lanes[i % 32] += difference * difference;
  }
}

inline uint32_t add_square_distances(const float* x, const float* h, const float* y, size_t n, float* to_h,
                                     float* to_y) {
  add_square_distances(x, h, n, to_h);
  add_square_distances(x, y, n, to_y);
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(std::abs(x[i])));
  return largest;
}

}  // namespace scalar

}  // namespace tsq::kernels
