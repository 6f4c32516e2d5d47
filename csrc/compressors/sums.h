// What the forms of encoding compress (x, e + x or x - h) as one vector, and uniform numbers for its elements: what the
// codecs that draw at random share.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>
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

/// What a chooser ranks by: x[i] * weights[i] in S, in `buffer`; without weights x itself.
template <class S>
const S* ranks_of(const S* x, size_t n, std::span<const double> weights, std::vector<S>& buffer) {
  if (weights.empty()) return x;
  buffer.resize(std::max<size_t>(n, 1));
  for (size_t i = 0; i < n; ++i) buffer[i] = static_cast<S>(static_cast<double>(x[i]) * weights[i]);
  return buffer.data();
}

/// Sum of the squares of x, e + x (kResidual: the state is e + x already) or x - h, each computed in S. Order:
/// lane_sum.
double squared_norm_of(kernels::Form form, ConstView x, const void* state);

using kernels::lane_sum;

/// Calls take(i) for those of the elements [begin, end) of a slice at `offset` whose uniform number R_i in [0, 2^32) is
/// below threshold(i), which is at most 2^32. R_i = 65536 times the dither of domain 1 plus that of domain 2
/// (kernels/philox_tile.h), which is looked at once in 65536 times. coarse(i) is at least
/// threshold(i) >> 16, and costs less: it is asked for every element.
template <class Coarse, class Threshold, class Take>
void sample(PhiloxKey key, uint64_t offset, size_t begin, size_t end, Coarse coarse, Threshold threshold, Take take) {
  constexpr size_t kTile = kernels::PhiloxTile::kElements;
  kernels::PhiloxTile high, low;
  uint32_t bar[kTile] = {};
  uint64_t candidates[kTile / 64];
  while (begin < end) {
    const uint64_t tile = (offset + begin) / kTile;
    const size_t first = (offset + begin) % kTile, count = std::min(kTile - first, end - begin);
    kernels::philox_tile(key, tile, 1, &high);
    for (size_t i = 0; i < count; ++i) bar[first + i] = coarse(begin + i);
    kernels::dithers_at_most(high, bar, candidates);
    bool have_low = false;
    const auto look = [&](size_t i) {  // in the tile
      if (i < first || i >= first + count) return;
      const size_t at = begin + i - first;
      const uint64_t r = high.dither(i), exact = threshold(at);
      if (r > exact >> 16) return;
      if (r == exact >> 16) {
        if (!have_low) kernels::philox_tile(key, tile, 2, &low);
        have_low = true;
        if ((r << 16 | low.dither(i)) >= exact) return;
      }
      take(at);
    };
    for (size_t word = 0; word < kTile / 64; ++word)
      for (uint64_t left = candidates[word]; left != 0; left &= left - 1)
        look(64 * word + static_cast<size_t>(std::countr_zero(left)));
    begin += count;
  }
}

}  // namespace tsq
