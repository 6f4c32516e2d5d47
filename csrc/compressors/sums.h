// What the forms of encoding compress (x, e + x or x - h) as one vector, and uniform numbers for its elements: what the
// codecs that draw at random share.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/philox.h"
#include "kernels/quantizer.h"

namespace tsq {

/// x, e + x or x - h in state_dtype(x.dtype), x.numel elements; null if one is not finite, or reaches `limit`: then
/// nothing has changed. For kResidual the state becomes e + x. The result is x itself, the state, or `buffer`. S: of
/// state_dtype(x.dtype).
template <class S>
const S* sums_of(kernels::Form form, ConstView x, void* state, std::vector<S>& buffer, double limit = HUGE_VAL);

extern template const float* sums_of(kernels::Form, ConstView, void*, std::vector<float>&, double);
extern template const double* sums_of(kernels::Form, ConstView, void*, std::vector<double>&, double);

/// The sum of f(0) ... f(n - 1), in double and in a fixed order: lane i mod 32 adds its terms in ascending order from
/// 0; then lane l += lane l + w for l < w, w = 16, 8, 4, 2, 1.
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

constexpr size_t kDitherTile = 256;

/// The 16-bit dithers of the parameter's elements [256 tile, 256 tile + 256), as docs/wire_format.md defines them for
/// codec 1 but with `domain` as the third word of the counter (0 is the quantizer's).
void dither_tile(PhiloxKey key, uint64_t tile, uint32_t domain, uint16_t (&out)[kDitherTile]);

/// Calls take(i) for those of the elements [0, n) of a slice at `offset` whose uniform number R_i in [0, 2^32) is below
/// threshold(i), which is at most 2^32. R_i = 65536 times the dither of domain 1 plus that of domain 2, which is looked
/// at once in 65536 times. coarse(i) is threshold(i) >> 16.
template <class Coarse, class Threshold, class Take>
void sample(PhiloxKey key, uint64_t offset, size_t n, Coarse coarse, Threshold threshold, Take take) {
  uint16_t high[kDitherTile], low[kDitherTile];
  uint32_t bar[kDitherTile];
  for (size_t begin = 0; begin < n;) {
    const uint64_t tile = (offset + begin) / kDitherTile;
    const size_t first = (offset + begin) % kDitherTile, count = std::min(kDitherTile - first, n - begin);
    dither_tile(key, tile, 1, high);
    for (size_t i = 0; i < count; ++i) bar[i] = coarse(begin + i);
    bool have_low = false;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t r = high[first + i];
      if (r > bar[i]) continue;
      if (r == bar[i]) {
        if (!have_low) dither_tile(key, tile, 2, low);
        have_low = true;
        if ((uint64_t{r} << 16 | low[first + i]) >= threshold(begin + i)) continue;
      }
      take(begin + i);
    }
    begin += count;
  }
}

}  // namespace tsq
