// Who owns which part of a parameter in the sharded exchange: a pure function of the parameter and the world size,
// never of a bucket, so that an owner's residual stays where it is when DDP rebuilds its buckets.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace tsq {

struct Range {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
};

/// The part of parameter number `parameter` (numel elements) that `rank` of `world` owns. Parts begin at multiples of
/// `granularity`, differ by at most one granule, and are dealt from another rank for each parameter, so that small ones
/// spread evenly.
constexpr Range owned_range(size_t numel, size_t granularity, uint32_t parameter, uint32_t rank, uint32_t world) {
  const size_t granules = (numel + granularity - 1) / granularity;
  const size_t turn = (rank + world - parameter % world) % world;
  const auto bound = [&](size_t i) { return std::min(numel, granules * i / world * granularity); };
  return {bound(turn), bound(turn + 1)};
}

}  // namespace tsq
