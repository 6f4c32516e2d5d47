// The level coding: the packed form bit by bit, the choice of the shorter form, what is rejected.
#include "wire/levels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "vectors.h"

namespace tsq::wire {
namespace {

using Levels = std::vector<int16_t>;
using Octets = std::vector<uint8_t>;

Levels random_levels(size_t n, int top, uint32_t zeros_per_level, uint64_t seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  Levels levels(n);
  for (int16_t& level : levels)
    if (random() % (zeros_per_level + 1) == 0)
      level = static_cast<int16_t>(static_cast<int>(random() % static_cast<uint32_t>(2 * top + 1)) - top);
  return levels;
}

Octets coded(const Levels& levels, int width) {
  Octets out(max_level_bytes(levels.size(), width));
  size_t at = 4 * level_segments(levels.size());
  for (size_t begin = 0, s = 0; begin < levels.size(); begin += kLevelSegment, ++s) {
    uint32_t head = 0;
    const size_t count = std::min(kLevelSegment, levels.size() - begin);
    at += encode_levels({levels.data() + begin, count}, width, out.data() + at, &head);
    store<uint32_t>(out.data() + 4 * s, head);
  }
  out.resize(at);
  return out;
}

/// The levels, or none if the bytes are rejected.
Levels decoded(Bytes in, size_t n, int width) {
  try {
    if (level_bytes(in, n, width) != in.size()) return {};
  } catch (const WireError&) {
    return {};
  }
  LevelReader reader(in, n, width);
  Levels levels(std::max<size_t>(level_segments(n), 1) * kLevelSegment);
  for (size_t s = 0; s < level_segments(n); ++s)
    if (!reader.next(levels.data() + s * kLevelSegment)) return {};
  levels.resize(n);
  return levels;
}

TEST(Levels, WidthsHoldTheirLevels) {
  EXPECT_EQ(level_width(1), 2);
  EXPECT_EQ(level_width(2), 3);
  EXPECT_EQ(level_width(3), 3);
  EXPECT_EQ(level_width(127), 8);
  EXPECT_EQ(level_width(128), 9);
  EXPECT_EQ(level_width(32767), 16);
  for (uint32_t s = 1; s <= 32767; ++s) {
    const int width = level_width(s);
    ASSERT_TRUE(int(s) <= top_level(width) && (width == 2 || int(s) > top_level(width - 1))) << s;
    ASSERT_EQ(width, static_cast<int>(std::ceil(std::log2(2.0 * s + 1)))) << s;
  }
}

// Element i of a tile: lane i mod 16, row i / 16; bits [row * width, (row + 1) * width) of its lane's string, of which
// 16-bit word j of all lanes stands before word j + 1.
TEST(Levels, PackedFormIsTheDocuments) {
  for (int width = 2; width <= 16; ++width) {
    for (const size_t n : {1, 15, 16, 17, 255, 256, 257, 700, 1024}) {
      Levels levels = random_levels(n, top_level(width), 0, n);
      for (int16_t& level : levels) level = level ? level : int16_t{1};  // so that Elias's code is longer
      levels[n / 2] = static_cast<int16_t>(-top_level(width));
      const Octets bytes = coded(levels, width);
      if (load<uint32_t>(bytes.data()) != 0x80000000u) continue;
      ASSERT_EQ(bytes.size(), 4 + packed_bytes(n, width));
      Octets expected(packed_bytes((n + 255) / 256 * 256, width));
      for (size_t i = 0; i < n; ++i) {
        for (size_t b = 0; b < size_t(width); ++b) {
          const size_t bit = i % 256 / 16 * size_t(width) + b, word = bit / 16 * 16 + i % 16;
          if (levels[i] >> b & 1)
            expected[packed_bytes(i / 256 * 256, width) + 2 * word + bit % 16 / 8] |= uint8_t(1u << (bit % 8));
        }
      }
      EXPECT_TRUE(std::equal(bytes.begin() + 4, bytes.end(), expected.begin())) << width << ' ' << n;
      EXPECT_EQ(decoded(bytes, n, width), levels);
    }
  }
}

TEST(Levels, TakesTheShorterFormPerSegment) {
  Levels levels = random_levels(65536, 7, 0, 1);
  const Levels sparse = random_levels(70000, 1, 200, 2);
  levels.insert(levels.end(), sparse.begin(), sparse.end());
  levels.resize(levels.size() + 65536, 0);
  const Octets bytes = coded(levels, 4);
  EXPECT_EQ(load<uint32_t>(bytes.data()), 0x80000000u);
  EXPECT_EQ(load<uint32_t>(bytes.data() + 4), elias_bits(std::span(levels).subspan(65536, 65536)));
  EXPECT_EQ(decoded(bytes, levels.size(), 4), levels);
  EXPECT_EQ(coded(Levels(200'000), 16).size(), 16u);
  EXPECT_EQ(decoded(Octets(16), 200'000, 16), Levels(200'000));
  EXPECT_EQ(coded({}, 5).size(), 0u);
}

TEST(Levels, LengthsDecideExactly) {
  for (size_t n = 1; n <= 40; ++n) {
    for (uint64_t seed = 0; seed < 50; ++seed) {
      const Levels levels = random_levels(n, 3, static_cast<uint32_t>(seed % 4), seed);
      const size_t elias = (elias_bits(levels) + 7) / 8, packed = packed_bytes(n, 3);
      const Octets bytes = coded(levels, 3);
      ASSERT_EQ(bytes.size(), 4 + std::min(elias, packed));
      ASSERT_EQ(load<uint32_t>(bytes.data()) == 0x80000000u, packed <= elias);
      ASSERT_EQ(decoded(bytes, n, 3), levels);
    }
  }
}

TEST(Levels, RejectsWhatIsIllegal) {
  for (const uint32_t zeros : {0u, 30u}) {
    for (const int width : {2, 4, 9, 16}) {
      const size_t n = 300;
      const Octets good = coded(random_levels(n, top_level(width), zeros, 1), width);
      for (size_t at = 0; at < good.size(); ++at) {
        for (int bit = 0; bit < 8; ++bit) {
          Octets bad = good;
          bad[at] ^= static_cast<uint8_t>(1u << bit);
          const Levels levels = decoded(bad, n, width);
          for (const int16_t level : levels) ASSERT_LE(std::abs(level), top_level(width));
        }
      }
      for (size_t cut = 0; cut < good.size(); ++cut) ASSERT_TRUE(decoded(Bytes(good).first(cut), n, width).empty());
    }
  }
  Octets packed(4 + packed_bytes(20, 4));
  store<uint32_t>(packed.data(), 0x80000000u);
  EXPECT_EQ(decoded(packed, 20, 4), Levels(20));
  for (const size_t bit : {size_t{3}, size_t{8 * 8 + 4}, size_t{12}}) {
    // the unused code of element 0; row 1 of lane 4, behind the end; row 3 of lane 0, likewise
    Octets bad = packed;
    bad[4 + bit / 8] |= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_TRUE(decoded(bad, 20, 4).empty()) << bit;
  }
  for (const uint64_t n : {uint64_t{65537}, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX})
    EXPECT_TRUE(decoded(packed, n, 4).empty()) << n;
}

}  // namespace
}  // namespace tsq::wire
