#include "wire/levels.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "common/error.h"

namespace tsq::wire {

namespace {

constexpr uint32_t kPacked = 0x80000000u;
constexpr int kMinWidth = 2, kMaxWidth = 16;
constexpr size_t kTile = 256, kLanes = 16, kRows = 16;  // element i of a tile: lane i mod 16, row i / 16

// A lane's 16 codes are kWidth words of 16 bits; word j of all lanes stands before word j + 1.
template <int kWidth>
void pack_tile(const int16_t* levels, uint16_t* words) {
  constexpr uint32_t kMask = (1u << kWidth) - 1;
  std::fill_n(words, kLanes * kWidth, uint16_t{0});
#pragma GCC unroll 16
  for (size_t row = 0; row < kRows; ++row) {
    const size_t word = row * kWidth / 16, shift = row * kWidth % 16;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const auto code = static_cast<uint16_t>(static_cast<uint16_t>(levels[row * kLanes + lane]) & kMask);
      words[word * kLanes + lane] |= static_cast<uint16_t>(code << shift);
      if (shift + kWidth > 16) words[(word + 1) * kLanes + lane] |= static_cast<uint16_t>(code >> (16 - shift));
    }
  }
}

template <int kWidth>
void unpack_tile(const uint16_t* words, int16_t* levels) {
#pragma GCC unroll 16
  for (size_t row = 0; row < kRows; ++row) {
    const size_t word = row * kWidth / 16, shift = row * kWidth % 16;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      auto code = static_cast<uint16_t>(words[word * kLanes + lane] >> shift);
      if (shift + kWidth > 16) code |= static_cast<uint16_t>(words[(word + 1) * kLanes + lane] << (16 - shift));
      levels[row * kLanes + lane] =
          static_cast<int16_t>(static_cast<int16_t>(static_cast<uint16_t>(code << (16 - kWidth))) >> (16 - kWidth));
    }
  }
}

using Pack = void (*)(const int16_t*, uint16_t*);
using Unpack = void (*)(const uint16_t*, int16_t*);

template <size_t... kOffsets>
constexpr auto pack_table(std::index_sequence<kOffsets...>) {
  return std::array<std::pair<Pack, Unpack>, sizeof...(kOffsets)>{
      std::pair<Pack, Unpack>{pack_tile<kMinWidth + int(kOffsets)>, unpack_tile<kMinWidth + int(kOffsets)>}...};
}
constexpr auto kTiles = pack_table(std::make_index_sequence<kMaxWidth - kMinWidth + 1>());

void pack(std::span<const int16_t> levels, int width, uint8_t* out) {
  const Pack tile = kTiles[static_cast<size_t>(width - kMinWidth)].first;
  uint16_t words[kLanes * kMaxWidth];
  size_t i = 0;
  for (; levels.size() - i >= kTile; i += kTile) {
    tile(levels.data() + i, words);
    std::memcpy(out + packed_bytes(i, width), words, packed_bytes(kTile, width));
  }
  if (i == levels.size()) return;
  int16_t padded[kTile] = {};
  std::copy(levels.begin() + static_cast<ptrdiff_t>(i), levels.end(), padded);
  tile(padded, words);
  std::memcpy(out + packed_bytes(i, width), words, packed_bytes(levels.size() - i, width));
}

bool unpack(const uint8_t* in, int width, std::span<int16_t> levels) {
  const Unpack tile = kTiles[static_cast<size_t>(width - kMinWidth)].second;
  const int16_t unused = static_cast<int16_t>(-top_level(width) - 1);
  uint16_t words[kLanes * kMaxWidth];
  bool legal = true;
  size_t i = 0;
  for (; levels.size() - i >= kTile; i += kTile) {
    int16_t* const to = levels.data() + i;
    std::memcpy(words, in + packed_bytes(i, width), packed_bytes(kTile, width));
    tile(words, to);
    uint16_t bad = 0;
    for (size_t j = 0; j < kTile; ++j) bad |= to[j] == unused ? 1 : 0;
    legal = legal && bad == 0;
  }
  if (i == levels.size()) return legal;
  int16_t padded[kTile];
  std::fill(std::begin(words), std::end(words), uint16_t{0});
  std::memcpy(words, in + packed_bytes(i, width), packed_bytes(levels.size() - i, width));
  tile(words, padded);
  for (size_t j = 0; j < kTile; ++j) legal = legal && (i + j < levels.size() ? padded[j] != unused : padded[j] == 0);
  std::copy_n(padded, levels.size() - i, levels.data() + i);
  return legal;
}

// No more than elias_bits of the whole tiles of `levels`, several times as fast. Exact but for gaps above 3, levels
// above 511 and each tile's first gap: a level costs its sign, its code, 1 for a gap of 1, and 2 more behind zeros.
uint64_t elias_bound(std::span<const int16_t> levels) {
  using Vector = int16_t __attribute__((vector_size(16)));  // comparisons give 0 or -1
  constexpr size_t kAtOnce = sizeof(Vector) / sizeof(int16_t);
  struct Cost {
    int16_t above, bits;
  };
  constexpr Cost kCosts[] = {{0, 3}, {1, 2}, {3, 3}, {7, 1}, {15, 4}, {31, 1}, {63, 1}, {127, 1}, {255, 2}};
  uint64_t bits = 0;
  for (size_t i = 0; levels.size() - i >= kTile; i += kTile) {
    Vector sum{};  // at most 20 bits a level and 32 levels
    for (size_t j = i; j < i + kTile; j += kAtOnce) {
      Vector level, before{};
      std::memcpy(&level, levels.data() + j, sizeof level);
      const Vector sign = level >> 15, magnitude = (level ^ sign) - sign;
      for (const Cost& cost : kCosts) sum += (magnitude > cost.above) & cost.bits;
      if (j == i) continue;
      std::memcpy(&before, levels.data() + j - 1, sizeof before);
      sum += ((level != 0) & (before == 0)) & static_cast<int16_t>(2);
    }
    for (size_t lane = 0; lane < kAtOnce; ++lane) bits += static_cast<uint64_t>(sum[lane]);
  }
  return bits;
}

size_t segment_length(uint64_t n, uint64_t segment) {
  return static_cast<size_t>(std::min<uint64_t>(kLevelSegment, n - segment * kLevelSegment));
}

uint64_t body_bytes(uint32_t head, size_t u, int width) {
  return head & kPacked ? packed_bytes(u, width) : (uint64_t{head} + 7) / 8;
}

std::vector<uint8_t>& scratch() {
  thread_local std::vector<uint8_t> bytes(packed_bytes(kLevelSegment, kMaxWidth) + 2 * kEliasSlack);
  return bytes;
}

}  // namespace

size_t encode_levels(std::span<const int16_t> levels, int width, uint8_t* out, uint32_t* head) {
  const size_t packed = packed_bytes(levels.size(), width);
  const size_t enough = 8 * packed - 7;  // from there on the bytes are as many
  std::vector<uint8_t>& buffer = scratch();
  const size_t bits = elias_bound(levels) >= enough ? enough : encode_elias(levels, enough, buffer.data());
  if (bits >= enough) {
    *head = kPacked;
    pack(levels, width, out);
    return packed;
  }
  *head = static_cast<uint32_t>(bits);
  const size_t bytes = body_bytes(*head, levels.size(), width);
  std::memcpy(out, buffer.data(), bytes);
  return bytes;
}

uint64_t level_bytes(Bytes in, uint64_t n, int width) {
  const uint64_t segments = level_segments(n);
  if (segments > in.size() / 4) throw_wire("bytes", concat("at least ", segments, " heads of levels"), in.size());
  uint64_t bytes = 4 * segments;
  for (uint64_t s = 0; s < segments; ++s) {
    const uint32_t head = load<uint32_t>(in.data() + 4 * s);
    const size_t u = segment_length(n, s);
    const uint64_t most = packed_bytes(u, width);
    if (head & kPacked ? head != kPacked : head > 8 * most)
      throw_wire("payload", concat("a head of ", kPacked, " or of at most ", 8 * most, " bits"), head);
    bytes += body_bytes(head, u, width);
  }
  if (bytes > in.size()) throw_wire("bytes", concat("at least ", bytes, " of levels"), in.size());
  return bytes;
}

void LevelReader::skip(uint64_t segment) {
  for (; segment_ < segment; ++segment_)
    at_ += body_bytes(load<uint32_t>(in_.data() + 4 * segment_), segment_length(n_, segment_), width_);
}

bool LevelReader::next(int16_t* levels) {
  const uint32_t head = load<uint32_t>(in_.data() + 4 * segment_);
  const size_t u = segment_length(n_, segment_++), bytes = body_bytes(head, u, width_);
  const uint8_t* const body = in_.data() + at_;
  at_ += bytes;
  if (head & kPacked) return unpack(body, width_, {levels, u});
  std::vector<uint8_t>& buffer = scratch();
  std::memcpy(buffer.data(), body, bytes);
  std::memset(buffer.data() + bytes, 0, kEliasSlack);
  return decode_elias(buffer.data(), head, top_level(width_), {levels, u});
}

}  // namespace tsq::wire
