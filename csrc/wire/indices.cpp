#include "wire/indices.h"

#include <algorithm>
#include <bit>
#include <cassert>

#include "common/error.h"
#include "common/parallel.h"

namespace tsq::wire {

namespace {

constexpr uint16_t kBitmap = 0x8000;
constexpr size_t kMaxBody = 2 * kSegment / 8;  // Elias-Fano of a full segment
constexpr size_t kSlack = 16;                  // so that eight bytes may be loaded at every bit

size_t segment_length(uint64_t n, uint64_t segment) {
  return static_cast<size_t>(std::min<uint64_t>(kSegment, n - segment * kSegment));
}

/// max{l : (u >> l) >= count}, for 0 < count <= u.
unsigned low_bits(uint64_t u, uint64_t count) { return static_cast<unsigned>(std::bit_width(u / count)) - 1; }

size_t elias_fano_bits(size_t u, size_t count) {
  const unsigned l = low_bits(u, count);
  return count * (l + 1) + ((u - 1) >> l);
}

size_t bytes_of(size_t bits) { return (bits + 7) / 8; }

size_t body_bytes(uint16_t head, size_t u) {
  if (head & kBitmap) return bytes_of(u);
  return head ? bytes_of(elias_fano_bits(u, head)) : 0;
}

uint64_t bits_at(const uint8_t* buffer, size_t bit) { return load<uint64_t>(buffer + bit / 8) >> (bit % 8); }

/// Writes a body into `buffer`, which is 0. Bits are collected in a word: read and written back one by one in memory,
/// each would wait for the one before.
void encode_elias_fano(std::span<const uint32_t> indices, uint32_t base, size_t u, uint8_t* buffer) {
  const unsigned l = low_bits(u, indices.size());
  const uint64_t mask = (uint64_t{1} << l) - 1;
  const auto flush = [&](size_t index, uint64_t word) { store<uint64_t>(buffer + 8 * index, word); };
  uint64_t word = 0;
  size_t at = 0;
  unsigned used = 0;
  for (const uint32_t index : indices) {
    const uint64_t low = (index - base) & mask;
    word |= low << used;
    used += l;
    if (used < 64) continue;
    flush(at++, word);
    used -= 64;
    word = low >> (l - used);
  }
  size_t bit = indices.size() * l;  // of the next in unary, if its bucket is the first
  for (const uint32_t index : indices) {
    const size_t place = bit++ + ((index - base) >> l);
    if (place / 64 != at) {
      flush(at, word);
      at = place / 64;
      word = 0;
    }
    word |= uint64_t{1} << (place % 64);
  }
  flush(at, word);
}

/// Codes one non-empty segment to `out`; returns its head.
uint16_t encode_body(std::span<const uint32_t> indices, uint32_t base, size_t u, uint8_t* out, size_t* bytes) {
  uint8_t buffer[kMaxBody + kSlack];
  const size_t count = indices.size();
  const auto elias_fano = static_cast<uint16_t>(count);
  const bool bitmap = bytes_of(u) < body_bytes(elias_fano, u);
  const auto head = static_cast<uint16_t>(bitmap ? elias_fano | kBitmap : elias_fano);
  *bytes = body_bytes(head, u);
  std::memset(buffer, 0, *bytes + kSlack);
  if (bitmap) {
    for (const uint32_t index : indices) buffer[(index - base) / 8] |= static_cast<uint8_t>(1u << ((index - base) % 8));
  } else {
    encode_elias_fano(indices, base, u, buffer);
  }
  std::memcpy(out, buffer, *bytes);
  return head;
}

bool decode_bitmap(const uint8_t* buffer, size_t bytes, size_t u, size_t count, uint16_t* positions) {
  size_t found = 0;
  for (size_t bit = 0; bit < 8 * bytes; bit += 64) {
    for (uint64_t word = load<uint64_t>(buffer + bit / 8); word; word &= word - 1) {
      const size_t position = bit + static_cast<size_t>(std::countr_zero(word));
      if (found == count || position >= u) return false;
      positions[found++] = static_cast<uint16_t>(position);
    }
  }
  return found == count;
}

/// Bits behind the last position's (padding included) would be positions of u or more.
bool decode_elias_fano(const uint8_t* buffer, size_t bytes, size_t u, size_t count, uint16_t* positions) {
  constexpr size_t kStep = 56;  // bits that bits_at is sure to have, in whole bytes
  const unsigned l = low_bits(u, count);
  const uint64_t mask = (uint64_t{1} << l) - 1;
  const size_t high = count * l;
  size_t found = 0, next = 0;  // the smallest legal position
  for (size_t bit = high; bit < 8 * bytes; bit += kStep) {
    for (uint64_t word = bits_at(buffer, bit) & ((uint64_t{1} << kStep) - 1); word; word &= word - 1) {
      if (found == count) return false;
      const size_t bucket = bit + static_cast<size_t>(std::countr_zero(word)) - high - found;
      const size_t position = bucket << l | (bits_at(buffer, found * l) & mask);
      if (position < next || position >= u) return false;
      positions[found++] = static_cast<uint16_t>(position);
      next = position + 1;
    }
  }
  return found == count;
}

/// False if the body is not a legal one. `positions` has kSegment places.
bool decode_body(uint16_t head, const uint8_t* body, size_t u, uint16_t* positions) {
  uint8_t buffer[kMaxBody + kSlack];
  const size_t bytes = body_bytes(head, u), count = head & ~kBitmap;
  if (count == 0) return true;
  std::memcpy(buffer, body, bytes);
  std::memset(buffer + bytes, 0, kSlack);
  return (head & kBitmap ? decode_bitmap : decode_elias_fano)(buffer, bytes, u, count, positions);
}

uint16_t head_at(Bytes in, uint64_t segment) { return load<uint16_t>(in.data() + 2 * segment); }

}  // namespace

// Elias-Fano's bits are at most count g(u / count) with g(r) = l + 1 + r / 2^l, l = floor(log2 r): concave and
// increasing, hence over all segments together at most the same of n. Every non-empty segment may waste one byte.
size_t max_index_bytes(uint64_t n, uint64_t count) {
  const uint64_t segments = segment_count(n);
  if (count == 0) return 2 * segments;
  const unsigned l = low_bits(n, count);
  const uint64_t elias_fano = (count * (l + 1) + (n >> l) + 8) / 8 + std::min(count, segments);
  return 2 * segments + std::min(bytes_of(n), elias_fano);
}

size_t encode_indices(std::span<const uint32_t> indices, uint64_t n, uint8_t* out) {
  const uint64_t segments = segment_count(n);
  size_t at = 2 * segments, j = 0;
  for (uint64_t s = 0; s < segments; ++s) {
    const uint64_t end = std::min(n, (s + 1) * kSegment);
    const size_t first = j;
    const auto from = indices.begin() + static_cast<ptrdiff_t>(first);
    const auto most = static_cast<ptrdiff_t>(std::min(kSegment, indices.size() - first));
    j += static_cast<size_t>(std::lower_bound(from, from + most, end) - from);
    uint16_t head = 0;
    if (j > first) {
      size_t bytes = 0;
      head = encode_body(indices.subspan(first, j - first), static_cast<uint32_t>(s * kSegment), segment_length(n, s),
                         out + at, &bytes);
      at += bytes;
    }
    store<uint16_t>(out + 2 * s, head);
  }
  assert(j == indices.size());
  return at;
}

IndexExtent index_extent(Bytes in, uint64_t n) {
  const uint64_t segments = segment_count(n);
  if (segments > in.size() / 2) throw_wire("bytes", concat("at least ", segments, " index heads"), in.size());
  IndexExtent extent{0, 2 * segments};
  for (uint64_t s = 0; s < segments; ++s) {
    const uint16_t head = head_at(in, s);
    const size_t u = segment_length(n, s), count = head & ~kBitmap;
    if (count > u || head == kBitmap) throw_wire("payload", concat("an index head of at most ", u, " indices"), head);
    extent.count += count;
    extent.bytes += body_bytes(head, u);
  }
  if (extent.bytes > in.size()) throw_wire("bytes", concat("at least ", extent.bytes, " of indices"), in.size());
  return extent;
}

IndexExtent check_indices(Bytes in, uint64_t n) {
  const IndexExtent extent = index_extent(in, n);
  parallel_for(0, segment_count(n), 4, [&](size_t first, size_t end) {
    IndexReader reader(in, n);
    reader.skip(first);
    uint16_t positions[kSegment];
    for (size_t s = first; s < end; ++s)
      if (!reader.checked_next(positions))
        throw_wire("payload", "ascending indices, as many as their head says", concat("others in segment ", s));
  });
  return extent;
}

IndexReader::IndexReader(Bytes in, uint64_t n)
    : in_(in), n_(n), extent_(index_extent(in, n)), at_(static_cast<size_t>(2 * segment_count(n))) {}

size_t IndexReader::skip(uint64_t segment) {
  size_t before = 0;
  for (; segment_ < segment; ++segment_) {
    const uint16_t head = head_at(in_, segment_);
    before += head & ~kBitmap;
    at_ += body_bytes(head, segment_length(n_, segment_));
  }
  return before;
}

std::optional<size_t> IndexReader::checked_next(uint16_t (&positions)[kSegment]) {
  const uint16_t head = head_at(in_, segment_);
  const size_t u = segment_length(n_, segment_++);
  const bool legal = decode_body(head, in_.data() + at_, u, positions);
  at_ += body_bytes(head, u);
  return legal ? std::optional<size_t>(head & ~kBitmap) : std::nullopt;
}

}  // namespace tsq::wire
