// One segment of codec 5 (docs/wire_format.md): tables, states, words, signs, escapes <-> the integers' streams.
#pragma once

#include "common/bytes.h"
#include "kernels/uniform_step.h"

namespace tsq {

/// Frequencies for these counts: 0 where a count is 0, integers only, the same everywhere. At least one count is above
/// 0.
kernels::RansTable make_rans_table(const uint32_t* counts);

/// Hard maximum of a segment's bytes, n <= kUniformSegment; its entry in the table of lengths not included. A symbol
/// costs at most 4 bits of entropy, log2(3/2) since its frequency is at least 2/3 of its share, and log2(17/16) since
/// states are at least 16 times the frequency; a lane's words and state hold that, and 21 bits more.
constexpr size_t max_segment_bytes(size_t n) {
  const size_t lanes = kernels::rans_lanes(n), symbols = (n + 3) / 4 + n;
  const size_t tables = 4 + 45, words_and_states = symbols * 75 / 128 + 21 * lanes / 8 + 3;
  return n == 0 ? 0 : tables + words_and_states + (n + 7) / 8 + 2 * n;
}

/// Writes at most max_segment_bytes(codes.numel) bytes; returns how many, 0 if all integers are 0. The streams must
/// have their slack set as the kernels leave it.
size_t write_segment(const kernels::UniformCodes& codes, uint8_t* out);

/// Reads a segment of n elements. Throws WireError unless it is legal. Bytes up to `limit` may be looked at.
void read_segment(Bytes in, const uint8_t* limit, size_t n, kernels::UniformCodes& codes);

}  // namespace tsq
