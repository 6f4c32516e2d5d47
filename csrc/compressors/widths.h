// Where to spend bits: reverse water-filling on whole widths. Pure functions.
//
// Item i costs size_i for each bit of its width and, coded with b bits, leaves weight_i * noise(b) of noise. The best
// real widths are b_i = mean + 1/2 log2(w_i / size_i) - average where noise falls by 4 a bit (docs/algorithms.md,
// "Widths by weights"); whole ones come from giving out one bit at a time where a unit of cost removes most noise. Each
// bit of an item removes less than the one before, so with equal sizes that is the optimum; with sizes that differ it
// is the optimum of the budget that was used, and less than the largest size of the budget is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tsq {

constexpr int kMaxWidth = 8;

/// Relative noise of a width of 1 to 8 bits, falling and convex; which rounding it is measured for.
enum class NoiseCurve : uint8_t {
  kFit,       ///< Quantizer(levels="fit"), Gaussian input, block 256
  kUnbiased,  ///< levels "unbiased": 1 / s^2
};
double relative_noise(NoiseCurve curve, int bits);

struct WidthLimits {
  NoiseCurve curve = NoiseCurve::kFit;
  int least = 1;  ///< 1 to kMaxWidth
};

/// Widths of items of size 1: `least` each, and the sum `total` if least * n <= total <= 8 n (else the nearer of the
/// two). weights: what is not a positive finite number counts as 0, so that it gets what is left. Of equal gains the
/// item with the lower index comes first. The same result on every machine: products and comparisons of doubles. O(n).
std::vector<uint8_t> allocate_widths(std::span<const double> weights, uint64_t total, const WidthLimits& limits);

/// The same for items of these sizes (> 0): the sum of size * width is at most `budget`, or, if that is less than all
/// at `least`, this. O(n log n).
std::vector<uint8_t> allocate_widths(std::span<const double> weights, std::span<const uint64_t> sizes, uint64_t budget,
                                     const WidthLimits& limits);

}  // namespace tsq
