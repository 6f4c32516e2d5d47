// Elias's code: the lengths of the literature, the stream bit by bit, and that no bits do harm.
#include "wire/elias.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace tsq::wire {
namespace {

using Levels = std::vector<int16_t>;

/// omega(k) as text, by the definition.
std::string omega(uint32_t k) {
  std::string code = "0";
  while (k > 1) {
    std::string binary;
    for (uint32_t rest = k; rest > 0; rest /= 2) binary.insert(0, 1, rest % 2 ? '1' : '0');
    code.insert(0, binary);
    k = static_cast<uint32_t>(binary.size()) - 1;
  }
  return code;
}

std::string stream_of(const Levels& levels) {
  std::string out;
  size_t last = static_cast<size_t>(-1);
  for (size_t i = 0; i < levels.size(); ++i) {
    if (levels[i] == 0) continue;
    out += omega(static_cast<uint32_t>(i - last)) + (levels[i] < 0 ? "1" : "0") +
           omega(static_cast<uint32_t>(std::abs(levels[i])));
    last = i;
  }
  return out;
}

/// A level is not zero with probability `density`; magnitudes are log-uniform up to `top`.
Levels random_levels(size_t n, double density, double top, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  Levels levels(n);
  for (int16_t& level : levels)
    if (uniform(random) < density)
      level = static_cast<int16_t>(std::pow(top + 0.99, uniform(random)) * (random() % 2 ? 1 : -1));
  return levels;
}

struct Coded {
  std::vector<uint8_t> bytes;  // with the slack, zero
  size_t bits;
};

Coded coded(const Levels& levels) {
  Coded out{std::vector<uint8_t>((elias_bits(levels) + 7) / 8 + 2 * kEliasSlack, 0xEE), 0};
  out.bits = encode_elias(levels, SIZE_MAX, out.bytes.data());
  const size_t used = (out.bits + 7) / 8;
  EXPECT_LE(used + kEliasSlack, out.bytes.size());
  out.bytes.resize(used);
  out.bytes.resize(used + kEliasSlack, 0);
  return out;
}

TEST(Elias, HasTheLengthsOfTheLiterature) {
  const struct {
    uint32_t from, to;
    unsigned length;
  } table[] = {{1, 1, 1},    {2, 3, 3},     {4, 7, 6},      {8, 15, 7},     {16, 31, 11},
               {32, 63, 12}, {64, 127, 13}, {128, 255, 14}, {256, 511, 16}, {65536, 131071, 28}};
  for (const auto& row : table)
    for (uint32_t k = row.from; k <= row.to; ++k) ASSERT_EQ(elias_length(k), row.length) << k;
  for (uint32_t k = 1; k <= 100'000; ++k) ASSERT_EQ(elias_length(k), omega(k).size()) << k;
}

TEST(Elias, EveryGapAndLevelReadsBack) {
  for (uint32_t gap = 1; gap <= kMaxEliasNumel; gap += 1 + gap / 50) {
    for (const int level : {1, -1, 2, 3, -255, 256, 1023, -1024, 32767, -32767}) {
      Levels levels(gap);
      levels.back() = static_cast<int16_t>(level);
      const Coded code = coded(levels);
      ASSERT_EQ(code.bits, elias_length(gap) + 1 + elias_length(static_cast<uint32_t>(std::abs(level))));
      Levels read(gap, 77);
      ASSERT_TRUE(decode_elias(code.bytes.data(), code.bits, 32767, read));
      ASSERT_EQ(read, levels);
    }
  }
}

TEST(Elias, StreamIsTheDefinitions) {
  for (const double density : {0.0, 0.002, 0.05, 0.4, 1.0}) {
    for (const double top : {1.0, 9.0, 32767.0}) {
      for (const size_t n : {0, 1, 3, 4, 5, 1000, 65536}) {
        const Levels levels = random_levels(n, density, top, n + static_cast<size_t>(top));
        const std::string expected = stream_of(levels);
        const Coded code = coded(levels);
        ASSERT_EQ(code.bits, expected.size());
        ASSERT_EQ(elias_bits(levels), expected.size());
        for (size_t i = 0; i < code.bits; ++i) ASSERT_EQ(code.bytes[i / 8] >> (7 - i % 8) & 1, expected[i] - '0') << i;
        Levels read(n, 77);
        ASSERT_TRUE(decode_elias(code.bytes.data(), code.bits, 32767, read));
        ASSERT_EQ(read, levels);
      }
    }
  }
}

TEST(Elias, CountsOneStreamOfAnyLengthAndStopsAtTheLimit) {
  const Levels levels = random_levels(300'000, 0.01, 5, 1);
  EXPECT_EQ(elias_bits(levels), stream_of(levels).size());
  EXPECT_GE(elias_bits(levels, 1000), 1000u);
  EXPECT_LT(elias_bits(levels, 1000), 1100u);
  std::vector<uint8_t> out(125 + 2 * kEliasSlack);  // exact memory: ASan sees a write past it
  const size_t bits = encode_elias(std::span(levels).first(kMaxEliasNumel), 1000, out.data());
  EXPECT_TRUE(bits >= 1000 && bits < 1100);
}

TEST(Elias, EntropyIsThatOfTheLevels) {
  Levels levels(1024, 0);
  EXPECT_EQ(entropy_bits(levels), 0.0);
  for (size_t i = 0; i < 1024; i += 4) levels[i] = static_cast<int16_t>(i % 8 ? 1 : -1);  // 1/8, 1/8, 3/4
  EXPECT_NEAR(entropy_bits(levels), 1024 * (0.25 * 3 + 0.75 * std::log2(4.0 / 3)), 1e-9);
  EXPECT_EQ(entropy_bits({}), 0.0);
  const Levels sparse = random_levels(200'000, 0.02, 3, 5);
  EXPECT_LT(entropy_bits(sparse), static_cast<double>(elias_bits(sparse)));
}

TEST(Elias, RejectsWhatIsNotACode) {
  Levels levels = random_levels(500, 0.2, 40, 3);
  levels[7] = -40;
  const Coded good = coded(levels);
  Levels read(500);
  EXPECT_FALSE(decode_elias(good.bytes.data(), good.bits, 39, read));  // a level above the top
  Levels shorter(490);
  EXPECT_TRUE(std::any_of(levels.begin() + 490, levels.end(), [](int16_t v) { return v != 0; }));
  EXPECT_FALSE(decode_elias(good.bytes.data(), good.bits, 40, shorter));  // a position behind the end
  for (size_t bits = 1; bits < good.bits; ++bits) {                       // a prefix is legal only where a level ends
    std::vector<uint8_t> cut(good.bytes.begin(), good.bytes.begin() + static_cast<ptrdiff_t>((bits + 7) / 8));
    if (bits % 8) cut.back() &= static_cast<uint8_t>(0xFF00u >> (bits % 8));
    cut.resize(cut.size() + kEliasSlack, 0);
    if (decode_elias(cut.data(), bits, 40, read)) {
      ASSERT_EQ(elias_bits(read), bits);
    }
  }
}

// Whatever is read must be what would be written: there are no two codes of the same levels, and nothing goes unread.
TEST(Elias, RandomBitsAreRejectedOrCanonical) {
  std::mt19937 random(5);
  size_t accepted = 0;
  for (int trial = 0; trial < 200'000; ++trial) {
    const size_t bits = random() % 60;
    std::vector<uint8_t> bytes((bits + 7) / 8);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(trial % 2 ? random() : random() & random());
    if (bits % 8 && random() % 8) bytes.back() &= static_cast<uint8_t>(0xFF00u >> (bits % 8));
    const std::vector<uint8_t> given = bytes;
    bytes.resize(bytes.size() + kEliasSlack, 0);  // exact memory: ASan sees a read past it
    Levels read(1 + random() % 300);
    if (!decode_elias(bytes.data(), bits, 100, read)) continue;
    ++accepted;
    const Coded again = coded(read);
    ASSERT_EQ(again.bits, bits);
    ASSERT_TRUE(std::equal(given.begin(), given.end(), again.bytes.begin()));
  }
  EXPECT_GT(accepted, 1000u);
}

}  // namespace
}  // namespace tsq::wire
