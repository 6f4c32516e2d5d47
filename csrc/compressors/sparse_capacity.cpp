#include "compressors/sparse_capacity.h"

#include <algorithm>
#include <cmath>

namespace tsq {

// wire::max_index_bytes is at most 3 bytes for every begun segment and 1, and its bits of Elias-Fano, K (l + 1) + n /
// 2^l with l = floor(log2(n / K)), are the least over all l: with any fixed l they are a bound, linear in K and n.
Capacity sparse_capacity(double ratio, uint64_t entries, DType dtype) {
  constexpr int kMaxLow = 13;
  const int low = ratio > 0 ? std::clamp(static_cast<int>(std::floor(-std::log2(ratio))), 0, kMaxLow) : kMaxLow;
  const double unit = static_cast<double>(Capacity::kUnit), size = static_cast<double>(size_of(dtype));
  const double per_entry = size + (low + 1) / 8.0;
  const double slope = 3 + unit * (ratio * per_entry + std::ldexp(1.0, -low) / 8);
  return {.slope = static_cast<int64_t>(std::ceil(slope)) + 1,
          .constant = 8,
          .entries = static_cast<int64_t>(std::min<uint64_t>(entries, INT64_MAX)),
          .per_entry = static_cast<int64_t>(std::ceil(per_entry))};
}

}  // namespace tsq
