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
  /// The words of counter j, one after the other: word k of all.
  uint32_t word(size_t k) const { return words[k % 4][k / 4]; }
};

/// Bit i of `out`, 256 bits: whether the dither of element i of the tile is at most bars[i]. `words` as philox_tile
/// gives them.
void dithers_at_most(const PhiloxTile& words, const uint32_t* bars, uint64_t* out);

/// The counters (low, high 32 bits of 32 tile + lane, domain, 0). Domain 0 is the dither of codec 1.
void philox_tile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out);

namespace scalar {
void dithers_at_most(const PhiloxTile& words, const uint32_t* bars, uint64_t* out);
void philox_tile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out);
}  // namespace scalar

}  // namespace tsq::kernels
