// Signed levels as bytes (docs/wire_format.md, "Level coding"): per segment of 65536 elements the shorter of a packed
// form with a fixed number of bits per level and Elias's code of the non-zero ones.
//
//   heads: one u32 per segment: bit 31: packed; else the number of bits of an Elias code | bodies, whole bytes
//
// Nothing here reads or writes outside of the memory it is given, whatever the bytes say.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/bytes.h"
#include "wire/elias.h"

namespace tsq::wire {

constexpr size_t kLevelSegment = kMaxEliasNumel;

constexpr uint64_t level_segments(uint64_t n) { return n / kLevelSegment + (n % kLevelSegment != 0); }

/// Bits of a packed level from -s to s, s >= 1: two's complement.
constexpr int level_width(uint32_t s) { return 1 + static_cast<int>(std::bit_width(s)); }

/// The largest legal level of a packed code; the most negative code is not used.
constexpr int top_level(int width) { return (1 << (width - 1)) - 1; }

/// Bytes of the packed form of n levels, 2 <= width <= 16.
constexpr uint64_t packed_bytes(uint64_t n, int width) {
  const uint64_t bits = static_cast<uint64_t>(width), rows = (n % 256 + 15) / 16;
  return 32 * (bits * (n / 256) + (bits * rows + 15) / 16);
}

/// Hard maximum of heads and bodies of n levels, in bytes.
constexpr uint64_t max_level_bytes(uint64_t n, int width) { return 4 * level_segments(n) + packed_bytes(n, width); }

/// Writes the body of one segment of at most kLevelSegment levels to `out` (at least packed_bytes) and its head to
/// *head; returns the body's length.
size_t encode_levels(std::span<const int16_t> levels, int width, uint8_t* out, uint32_t* head);

/// Heads and bodies at the front of `in`: their length. Throws WireError if the heads are not there, are impossible, or
/// if the bodies do not fit.
uint64_t level_bytes(Bytes in, uint64_t n, int width);

/// Reads segment after segment; next() at most level_segments(n) times. `in` has passed level_bytes.
class LevelReader {
 public:
  LevelReader(Bytes in, uint64_t n, int width) : in_(in), n_(n), width_(width), at_(4 * level_segments(n)) {}

  /// Goes to `segment`, from the first one.
  void skip(uint64_t segment);

  /// Writes the next segment's levels; false if its body is illegal. `levels` has kLevelSegment places.
  bool next(int16_t* levels);

 private:
  Bytes in_;
  uint64_t n_;
  int width_;
  uint64_t segment_ = 0, at_;
};

}  // namespace tsq::wire
