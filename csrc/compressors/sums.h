// What the forms of encoding compress (x, e + x or x - h) as one vector, and uniform numbers for its elements: what the
// codecs that draw at random share.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/philox_tile.h"
#include "kernels/quantizer.h"
#include "kernels/sums.h"

namespace tsq {

/// x, e + x or x - h in state_dtype(x.dtype), x.numel elements; null if one is not finite, or reaches `limit`: then
/// nothing has changed. For kResidual the state becomes e + x. The result is x itself, the state, or `buffer`. S: of
/// state_dtype(x.dtype).
template <class S>
const S* sums_of(kernels::Form form, ConstView x, void* state, std::vector<S>& buffer, double limit = HUGE_VAL);

extern template const float* sums_of(kernels::Form, ConstView, void*, std::vector<float>&, double);
extern template const double* sums_of(kernels::Form, ConstView, void*, std::vector<double>&, double);

using kernels::lane_sum;

/// Calls take(i) for those of the elements [begin, end) of a slice at `offset` whose uniform number R_i in [0, 2^32) is
/// below threshold(i), which is at most 2^32. R_i = 65536 times the dither of domain 1 plus that of domain 2
/// (kernels/philox_tile.h), which is looked at once in 65536 times. coarse(i) is at least
/// threshold(i) >> 16, and costs less: it is asked for every element.
template <class Coarse, class Threshold, class Take>
void sample(PhiloxKey key, uint64_t offset, size_t begin, size_t end, Coarse coarse, Threshold threshold, Take take) {
  constexpr size_t kTile = kernels::PhiloxTile::kElements;
  kernels::PhiloxTile high, low;
  uint32_t bar[kTile] = {}, dither[kTile];
  uint8_t candidates[kTile + 1];
  while (begin < end) {
    const uint64_t tile = (offset + begin) / kTile;
    const size_t first = (offset + begin) % kTile, count = std::min(kTile - first, end - begin);
    kernels::philox_tile(key, tile, 1, &high);
    high.dithers(dither);
    for (size_t i = 0; i < count; ++i) bar[i] = coarse(begin + i);
    size_t found = 0;
    for (size_t i = 0; i < count; ++i) {  // without a branch that cannot be foreseen
      candidates[found] = static_cast<uint8_t>(i);
      found += dither[first + i] <= bar[i];
    }
    bool have_low = false;
    for (size_t j = 0; j < found; ++j) {
      const size_t i = candidates[j];
      const uint64_t r = dither[first + i], exact = threshold(begin + i);
      if (r > exact >> 16) continue;
      if (r == exact >> 16) {
        if (!have_low) kernels::philox_tile(key, tile, 2, &low);
        have_low = true;
        if ((r << 16 | low.dither(first + i)) >= exact) continue;
      }
      take(begin + i);
    }
    begin += count;
  }
}

}  // namespace tsq
