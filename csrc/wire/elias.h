// Elias's omega code (P. Elias, IEEE Trans. Inf. Theory 1975) of sparse vectors of small integers: for every non-zero
// level omega(gap), a sign bit, omega(|level|), where gap is the distance from the non-zero level before, or from
// position -1. Bits run from a byte's highest to its lowest.
//
// omega(k), k >= 1: begin with "0"; while k > 1 put k in binary in front and go on with k = (its number of bits) - 1.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/bytes.h"

namespace tsq::wire {

/// Bits of omega(k), 1 <= k < 2^32: 1, 3, 3, 6, 6, 6, 6, 7, ...
constexpr unsigned elias_length(uint32_t k) {
  unsigned length = 1;
  for (; k > 1; k = static_cast<uint32_t>(std::bit_width(k)) - 1) length += static_cast<unsigned>(std::bit_width(k));
  return length;
}

/// Bits of the code of `levels` as one stream, at any length: what the papers count. Stops early, with some number of
/// at least `limit`, once there are as many.
uint64_t elias_bits(std::span<const int16_t> levels, uint64_t limit = UINT64_MAX);

/// n times the entropy of the empirical distribution of the levels: a bound for codes that know how often each occurs
/// but not where; a vector with regions of different density may do with less.
double entropy_bits(std::span<const int16_t> levels);

/// Elements of the longest vector that the two functions below take.
constexpr size_t kMaxEliasNumel = 65536;
/// They may write this many bytes past the code, and read as many.
constexpr size_t kEliasSlack = 8;

/// Writes the code of at most kMaxEliasNumel levels from -32767 to 32767, the last byte filled up with zeros, and
/// returns the number of bits; stops early, with some number of at least `limit`, once there are as many. `out` has
/// room for the code, or for `limit` bits if that is less, and for 2 * kEliasSlack bytes.
size_t encode_elias(std::span<const int16_t> levels, size_t limit, uint8_t* out);

/// Reads `bits` bits. `in` has kEliasSlack zeros behind their last byte. False, with any levels, unless they are the
/// code of exactly these bits, with no more levels than `levels` has, of at most `top`, and zeros up to the byte's end.
bool decode_elias(const uint8_t* in, size_t bits, int top, std::span<int16_t> levels);

}  // namespace tsq::wire
