// Capacity of the sparse vectors of codec 6: an index coding and as many values of the message's dtype.
#pragma once

#include "compressors/compressor.h"

namespace tsq {

/// Bounds wire::max_index_bytes(n, K) + K * size_of(dtype) for every n < 2^32 and K <= min(n, ratio * n + entries);
/// ratio in [0, 1]. `entries` is what one asks for whatever n is; two more than nothing cover a ratio's rounding.
Capacity sparse_capacity(double ratio, uint64_t entries, DType dtype);

}  // namespace tsq
