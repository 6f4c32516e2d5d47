// Sets of indices as bytes (docs/wire_format.md, "Index coding"): Elias-Fano or a bitmap, per segment of 16384
// positions.
//
//   heads: one u16 per segment, its count; bit 15: coded as a bitmap | bodies: one per non-empty segment, whole bytes
//
// Elias-Fano: P. Elias 1974, R. Fano 1971; within 0.6 bit per index of the entropy at densities of 1 to 10 %. Nothing
// here reads or writes outside of the memory it is given, whatever the bytes say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/bytes.h"

namespace tsq::wire {

constexpr size_t kSegment = 16384;

constexpr uint64_t segment_count(uint64_t n) { return n / kSegment + (n % kSegment != 0); }

/// Hard maximum of encode_indices' result for `count` indices below n, in bytes; grows with `count`.
size_t max_index_bytes(uint64_t n, uint64_t count);

/// Writes strictly ascending indices below n to `out` (at least max_index_bytes) and returns the length.
size_t encode_indices(std::span<const uint32_t> indices, uint64_t n, uint8_t* out);

struct IndexExtent {
  uint64_t count = 0;  ///< of indices
  uint64_t bytes = 0;  ///< of heads and bodies
};

/// What the heads at the front of `in` say. Throws WireError if they are not there or are impossible, or if the bodies
/// do not fit into `in`. O(n / 16384).
IndexExtent index_extent(Bytes in, uint64_t n);

/// index_extent, and checks that every body is legal: its count, ascending positions below the segment's length,
/// padding bits zero. Throws WireError.
IndexExtent check_indices(Bytes in, uint64_t n);

/// Reads segment after segment of a checked coding.
class IndexReader {
 public:
  IndexReader() = default;
  IndexReader(Bytes in, uint64_t n);

  uint64_t total() const { return extent_.count; }
  uint64_t bytes() const { return extent_.bytes; }

  /// Goes to `segment`, from the first one; returns how many positions lie before it.
  size_t skip(uint64_t segment);

  /// Writes the next segment's positions, relative to its first element, ascending; returns their number. To be called
  /// at most segment_count(n) times.
  size_t next(uint16_t (&positions)[kSegment]) { return checked_next(positions).value_or(0); }

  /// The same of a coding that has only passed index_extent; none if the segment is not legal.
  std::optional<size_t> checked_next(uint16_t (&positions)[kSegment]);

 private:
  Bytes in_;
  uint64_t n_ = 0;
  IndexExtent extent_;
  uint64_t segment_ = 0;
  size_t at_ = 0;
};

}  // namespace tsq::wire
