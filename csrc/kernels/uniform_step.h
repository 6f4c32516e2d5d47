// The kernels of uniform steps (docs/wire_format.md, codec 5): one segment of integers q = rint(z / step), split into
// streams of small symbols, and the interleaved rANS coder of these. Rules as in quantizer.h: SIMD here and the oracle
// in tsq::kernels::scalar give the same bytes; nothing allocates or throws; thread-safe.
#pragma once

#include "kernels/quantizer.h"

namespace tsq::kernels {

constexpr size_t kUniformSegment = 65536;  ///< elements that are coded together
constexpr uint32_t kUniformMax = 32767;    ///< the largest magnitude of q
constexpr uint32_t kUniformEscape = 16;    ///< from this magnitude on q is an escape
constexpr size_t kRansLanes = 32;
constexpr uint32_t kRansLow = 1u << 16;  ///< states are in [kRansLow, 2^32)

/// Number of rANS states of a segment of n elements.
constexpr size_t rans_lanes(size_t n) { return n >= 8192 ? kRansLanes : 4; }

/// How values become integers. Finite, normal; inverse = 1 / step rounded once, or 0: all integers are 0.
struct UniformGrid {
  float step = 1.0f;
  float inverse = 1.0f;
  bool stochastic = false;  ///< with the dither of `key`
  PhiloxKey key{};
};

/// The integers of one segment. Bit i of `flags` says whether q_i != 0; the other streams have an entry for each of
/// these, in order: min(|q|, 16) - 1, and the sign (1: negative); `escaped` has |q| where that is 16 and more.
struct UniformCodes {
  static constexpr size_t kSlack = 64;  ///< kernels may write, and read, this much past the end of each stream

  size_t numel = 0, nonzeros = 0, escapes = 0;
  alignas(64) uint8_t flags[kUniformSegment / 8 + kSlack];  ///< bits from numel on are 0 up to the end of a group of 4
  alignas(64) uint8_t magnitudes[kUniformSegment + kSlack];
  alignas(64) uint8_t signs[kUniformSegment / 8 + kSlack];  ///< bits from nonzeros on are 0, 512 of them at least
  alignas(64) uint16_t escaped[kUniformSegment + kSlack];

  size_t groups() const { return (numel + 3) / 4; }
};

/// How often each symbol occurs: the flags of four elements (bit k: element 4 i + k), and the magnitudes.
struct UniformCounts {
  uint32_t flags[16];
  uint32_t magnitudes[16];
};

/// Frequencies in units of 1/4096, which add up to 4096, and the sums of those before.
struct RansTable {
  uint16_t frequency[16];
  uint16_t start[16];
};

/// Quantizes at most kUniformSegment elements of x into `out` and updates the state (of state_dtype(x.dtype); null for
/// kPlain). `offset` is the place of x[0] in its parameter, a multiple of 256. False, with the state as it was, if an
/// element of what is compressed is not finite in float32.
bool quantize_uniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset, UniformCodes& out);

/// Counts the flags of all groups, and the magnitudes.
UniformCounts count_uniform(const UniformCodes& codes);

/// Encodes flags and magnitudes with the states given (rans_lanes(numel) of them), which change; writes words backward
/// from `end`, and may overwrite 8 before the first. Every symbol that occurs has a frequency above 0. Returns the
/// first word; there are at most groups() + nonzeros.
uint16_t* encode_rans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                      uint16_t* end);

/// The inverse: reads words from `in` on, none at or past `end`; fills flags, magnitudes and nonzeros of `codes`, whose
/// numel is set. States must be at least kRansLow; they change. Returns where it stopped, null if words are missing.
const uint8_t* decode_rans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                           const uint8_t* end, UniformCodes& codes);

/// acc[i] += scale * (q_i * step) where q_i is not 0; acc is float32 or float64 with codes.numel elements. The product
/// with the step is a float32; scale is applied in acc's type, and scale = 1 adds the value itself.
void add_uniform(const UniformCodes& codes, float step, double scale, View acc);

namespace scalar {
UniformCounts count_uniform(const UniformCodes& codes);
bool quantize_uniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset, UniformCodes& out);
uint16_t* encode_rans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                      uint16_t* end);
const uint8_t* decode_rans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                           const uint8_t* end, UniformCodes& codes);
void add_uniform(const UniformCodes& codes, float step, double scale, View acc);
}  // namespace scalar

}  // namespace tsq::kernels
