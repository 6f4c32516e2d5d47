#include "wire/elias.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

namespace tsq::wire {

namespace {

constexpr uint32_t kTable = 1024;     // codes of smaller integers are looked up
constexpr unsigned kPeek = 11;        // bits that are looked up at once
constexpr unsigned kMaxWidth = 17;    // of an integer: that of kMaxEliasNumel
constexpr size_t kLevelsAtOnce = 16;  // levels tested for zero at once
constexpr size_t kChunk = 4096;       // levels between two passes over them

struct Code {
  uint32_t bits;  // right-aligned
  uint32_t length;
};

constexpr Code code_of(uint32_t k) {
  Code code{0, 1};
  for (; k > 1; k = static_cast<uint32_t>(std::bit_width(k)) - 1) {
    code.bits |= k << code.length;
    code.length += static_cast<uint32_t>(std::bit_width(k));
  }
  return code;
}
static_assert(code_of(kMaxEliasNumel).length + 1 + code_of(32767).length + 7 <= 64, "a level is written at once");

constexpr auto kCodes = [] {
  std::array<Code, kTable> table{};
  for (uint32_t k = 1; k < kTable; ++k) table[k] = code_of(k);
  return table;
}();

Code code_for(uint32_t k) { return k < kTable ? kCodes[k] : code_of(k); }

// Lengths by the integer's number of bits, on which alone they depend.
constexpr auto kLengths = [] {
  std::array<uint8_t, 33> table{};
  for (unsigned width = 1; width <= 32; ++width)
    table[width] = static_cast<uint8_t>(elias_length(uint32_t{1} << (width - 1)));
  return table;
}();

// By the next kPeek bits: the integer whose code they begin with, and its length; 0 if that is longer.
struct Peeked {
  uint8_t value, length;
};
constexpr auto kPeeked = [] {
  std::array<Peeked, 1u << kPeek> table{};
  for (uint32_t k = 1; code_of(k).length <= kPeek; ++k) {
    const Code code = code_of(k);
    const uint32_t rest = kPeek - code.length, first = code.bits << rest;
    for (uint32_t i = first; i < first + (1u << rest); ++i)
      table[i] = {static_cast<uint8_t>(k), static_cast<uint8_t>(code.length)};
  }
  return table;
}();

// Writes the positions of the non-zero ones of at most kChunk levels; returns their number. What follows from them is
// then free of branches that nobody can predict.
size_t find_levels(const int16_t* levels, size_t n, uint16_t* positions) {
  size_t count = 0, i = 0;
  for (; i + kLevelsAtOnce <= n; i += kLevelsAtOnce) {
    uint64_t words[kLevelsAtOnce / 4];
    std::memcpy(words, levels + i, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3]) == 0) continue;
    for (size_t j = i; j < i + kLevelsAtOnce; ++j) {
      positions[count] = static_cast<uint16_t>(j);
      count += levels[j] != 0;
    }
  }
  for (; i < n; ++i) {
    positions[count] = static_cast<uint16_t>(i);
    count += levels[i] != 0;
  }
  return count;
}

// Calls visit(position, level) for the non-zero levels in order, until it returns false.
template <class Visit>
void for_each_level(std::span<const int16_t> levels, Visit visit) {
  uint16_t positions[kChunk + 1];
  for (size_t begin = 0; begin < levels.size(); begin += kChunk) {
    const int16_t* const chunk = levels.data() + begin;
    const size_t count = find_levels(chunk, std::min(kChunk, levels.size() - begin), positions);
    for (size_t k = 0; k < count; ++k)
      if (!visit(begin + positions[k], chunk[positions[k]])) return;
  }
}

uint32_t magnitude(int level) { return static_cast<uint32_t>(level < 0 ? -level : level); }

uint64_t load_big_endian(const uint8_t* p) { return __builtin_bswap64(load<uint64_t>(p)); }

// Reads omega codes; never more than 8 bytes at the byte of a position up to the end.
class Reader {
 public:
  Reader(const uint8_t* in, size_t bits) : in_(in), bits_(bits) {}

  size_t at() const { return at_; }
  bool done() const { return at_ >= bits_; }
  bool overran() const { return at_ > bits_; }

  bool bit() { return take(1) != 0; }

  // 0 if the code is that of an integer of more than kMaxWidth bits.
  uint32_t integer() {
    const Peeked peeked = kPeeked[peek() >> (64 - kPeek)];
    if (peeked.length != 0) {
      at_ += peeked.length;
      return peeked.value;
    }
    uint32_t k = 1;
    while (!overran() && bit()) {
      if (k >= kMaxWidth) return 0;
      k = 1u << k | static_cast<uint32_t>(take(k));
    }
    return k;
  }

 private:
  // At least 57 bits, then zeros.
  uint64_t peek() const { return load_big_endian(in_ + at_ / 8) << (at_ % 8); }

  uint64_t take(unsigned count) {
    const uint64_t bits = peek() >> (64 - count);
    at_ += count;
    return bits;
  }

  const uint8_t* in_;
  size_t bits_, at_ = 0;
};

}  // namespace

uint64_t elias_bits(std::span<const int16_t> levels, uint64_t limit) {
  uint64_t bits = 0;
  size_t next = 0;  // the smallest position that the next level can have
  for_each_level(levels, [&](size_t position, int level) {
    const auto gap = static_cast<uint32_t>(position + 1 - next);
    next = position + 1;
    bits += 1u + kLengths[static_cast<size_t>(std::bit_width(gap))] +
            kLengths[static_cast<size_t>(std::bit_width(magnitude(level)))];
    return bits < limit;
  });
  return bits;
}

double entropy_bits(std::span<const int16_t> levels) {
  std::vector<uint64_t> counts(1u << 16);
  for (const int16_t level : levels) ++counts[static_cast<uint16_t>(level)];
  const double n = static_cast<double>(levels.size());
  double bits = 0;
  for (const uint64_t count : counts)
    if (count != 0) bits += static_cast<double>(count) * std::log2(n / static_cast<double>(count));
  return bits;
}

size_t encode_elias(std::span<const int16_t> levels, size_t limit, uint8_t* out) {
  uint8_t* p = out;
  uint64_t pending = 0;  // from the highest bit on
  unsigned in_it = 0;    // less than 8
  size_t next = 0;
  store<uint64_t>(p, 0);  // also where there is nothing to write
  for_each_level(levels, [&](size_t position, int level) {
    const Code gap = code_for(static_cast<uint32_t>(position + 1 - next)), code = code_for(magnitude(level));
    next = position + 1;
    const uint64_t bits = ((uint64_t{gap.bits} << 1 | (level < 0)) << code.length) | code.bits;
    const unsigned length = gap.length + 1 + code.length;
    in_it += length;
    pending |= bits << (64 - in_it);
    store<uint64_t>(p, __builtin_bswap64(pending));
    p += in_it / 8;
    pending <<= in_it / 8 * 8;
    in_it %= 8;
    return 8 * static_cast<size_t>(p - out) + in_it < limit;
  });
  return 8 * static_cast<size_t>(p - out) + in_it;
}

bool decode_elias(const uint8_t* in, size_t bits, int top, std::span<int16_t> levels) {
  std::fill(levels.begin(), levels.end(), int16_t{0});
  Reader reader(in, bits);
  size_t next = 0;
  while (!reader.done()) {
    const uint32_t gap = reader.integer();
    if (gap == 0 || gap > levels.size() - next || reader.overran()) return false;
    const bool negative = reader.bit();
    if (reader.overran()) return false;
    const uint32_t level = reader.integer();
    if (level == 0 || level > static_cast<uint32_t>(top) || reader.overran()) return false;
    next += gap;
    levels[next - 1] = static_cast<int16_t>(negative ? -static_cast<int>(level) : static_cast<int>(level));
  }
  return bits % 8 == 0 || (in[bits / 8] & (0xFFu >> (bits % 8))) == 0;
}

}  // namespace tsq::wire
