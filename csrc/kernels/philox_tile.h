// The random numbers of a tile of 256 elements at once. As in quantizer.h there is a SIMD version, chosen at run time,
// and a scalar oracle that does the same; nothing allocates or throws.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/philox.h"

namespace tsq::kernels {

/// Philox4x32-10 of 32 consecutive counters.
struct PhiloxTile {
  static constexpr size_t kElements = 256, kLanes = 32;

  alignas(64) uint32_t words[4][kLanes];  ///< word, counter

  /// The 16-bit dither of element i of the tile, as docs/wire_format.md defines it for codec 1.
  uint32_t dither(size_t i) const {
    const size_t row = i / kLanes;
    return words[row / 2][i % kLanes] >> (16 * (row % 2)) & 0xFFFFu;
  }
  /// The dithers of all elements.
  void dithers(uint32_t (&out)[kElements]) const {
    for (size_t row = 0; row < kElements / kLanes; ++row)
      for (size_t lane = 0; lane < kLanes; ++lane)
        out[row * kLanes + lane] = words[row / 2][lane] >> (16 * (row % 2)) & 0xFFFFu;
  }
  /// The words of counter j, one after the other: word k of all.
  uint32_t word(size_t k) const { return words[k % 4][k / 4]; }
};

/// The counters (low, high 32 bits of 32 tile + lane, domain, 0). Domain 0 is the dither of codec 1.
void philox_tile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out);

namespace scalar {
void philox_tile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out);
}  // namespace scalar

}  // namespace tsq::kernels
