// Byte shuffles (TableLookupBytes) by the bits of a mask of eight: compress and expand for targets without such
// instructions.
#pragma once

#include <cstdint>

namespace tsq::kernels {

/// Of each mask: the set bits' elements moved together, or apart. 0x80 where there is none.
struct BitOrders {
  alignas(64) uint8_t compress[256][8];         ///< bytes, to the front
  alignas(64) uint8_t expand[256][8];           ///< bytes, from the front to where the bits are
  alignas(64) uint8_t compress_words[256][16];  ///< pairs of bytes, to the end
  alignas(64) uint8_t expand_words[256][16];    ///< pairs of bytes, from the front to where the bits are

  constexpr BitOrders() : compress(), expand(), compress_words(), expand_words() {
    for (int bits = 0; bits < 256; ++bits) {
      int count = 0;
      for (int lane = 0; lane < 8; ++lane) count += bits >> lane & 1;
      for (int lane = 0, rank = 0; lane < 8; ++lane) {
        compress[bits][lane] = expand[bits][lane] = 0x80;
        expand_words[bits][2 * lane] = expand_words[bits][2 * lane + 1] = 0x80;
        if (lane < 8 - count) compress_words[bits][2 * lane] = compress_words[bits][2 * lane + 1] = 0x80;
        if (!(bits >> lane & 1)) continue;
        expand[bits][lane] = static_cast<uint8_t>(rank++);
      }
      for (int lane = 0; lane < 8; ++lane) {
        if (!(bits >> lane & 1)) continue;
        const int rank = expand[bits][lane], last = 8 - count + rank;
        compress[bits][rank] = static_cast<uint8_t>(lane);
        for (int byte = 0; byte < 2; ++byte) {
          compress_words[bits][2 * last + byte] = static_cast<uint8_t>(2 * lane + byte);
          expand_words[bits][2 * lane + byte] = static_cast<uint8_t>(2 * rank + byte);
        }
      }
    }
  }
};
inline constexpr BitOrders kBitOrders{};

}  // namespace tsq::kernels
