// What the oracle and the SIMD kernels share of the rANS coder: one symbol of one lane.
#pragma once

#include <cstring>

#include "common/bytes.h"
#include "kernels/uniform_step.h"

namespace tsq::kernels {

/// States and words while encoding, last symbol first.
struct RansEncoder {
  uint32_t* states;
  uint16_t* next;

  void put(size_t lane, uint32_t symbol, const RansTable& table) {
    const uint32_t f = table.frequency[symbol];
    uint32_t& x = states[lane];
    if (x > (f << 20) - 1) {  // f = 4096: never
      *--next = static_cast<uint16_t>(x);
      x >>= 16;
    }
    x = (x / f << 12) + x % f + table.start[symbol];
  }
};

/// For each of the 4096 slots its symbol's frequency (13 bits), place from the symbol's start (12), symbol (4).
struct RansSlots {
  alignas(64) uint32_t entry[4096];

  explicit RansSlots(const RansTable& table) {
    for (uint32_t s = 0; s < 16; ++s) {
      const uint32_t f = table.frequency[s];
      uint32_t* const to = entry + table.start[s];
      for (uint32_t i = 0; i < f; ++i) to[i] = f | i << 13 | s << 25;
    }
  }
};

struct RansDecoder {
  uint32_t* states;
  const uint8_t* next;
  const uint8_t* end;
  bool missing = false;  ///< a word was

  uint32_t get(size_t lane, const RansSlots& slots) {
    uint32_t& x = states[lane];
    const uint32_t entry = slots.entry[x & 4095u];
    x = (entry & 0x1FFFu) * (x >> 12) + (entry >> 13 & 4095u);
    if (x < kRansLow) {
      missing = missing || end - next < 2;
      if (!missing) {
        x = x << 16 | tsq::load<uint16_t>(next);
        next += 2;
      }
    }
    return entry >> 25;
  }
};

}  // namespace tsq::kernels
