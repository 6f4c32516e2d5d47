// Dithering: every SIMD target gives the oracle's norms and levels.
#include <gtest/gtest.h>

#include "kernels/cpu/block.h"
#include "kernels/dithering.h"
#include "kernels/payload.h"
#include "kernels/scalar.h"

namespace tsq::kernels {
namespace {

constexpr PhiloxKey kKey{0x12345678u, 0x9ABCDEF0u};

/// A tile of a gradient without Inf and NaN, at an address that is aligned to a float only.
std::vector<float> tile(uint64_t seed, size_t m = kTile) {
  const test::Buffer x = test::gradient(DType::kFloat32, m, 4, seed);
  std::vector<float> out(m);
  std::memcpy(out.data(), x.data(), 4 * m);
  return out;
}

TEST(DitheringSimd, NormsEqualTheOracles) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (uint64_t seed = 0; seed < 200; ++seed) {
      for (const size_t m : {0, 1, 5, 31, 32, 33, 64, 128, 224, 255, 256}) {
        std::vector<float> z = tile(seed, m + 1);
        EXPECT_EQ(square_sum(z.data() + 1, m), scalar::square_sum(z.data() + 1, m)) << target << ' ' << m;
        EXPECT_EQ(largest_magnitude(z.data() + 1, m), scalar::largest_magnitude(z.data() + 1, m)) << target << ' ' << m;
        if (m == 0) continue;
        for (const float bad : {INFINITY, -INFINITY, NAN}) {
          z[1 + seed % m] = bad;
          EXPECT_FALSE(std::isfinite(square_sum(z.data() + 1, m)));
          EXPECT_GE(largest_magnitude(z.data() + 1, m), kInfBits);
        }
      }
    }
  }
}

TEST(DitheringSimd, SquaresDoNotOverflowOrVanish) {
  const std::vector<float> huge(256, 0x1.FFFFFEp127f), tiny(256, 0x1p-149f);
  EXPECT_EQ(square_sum(huge.data(), 256), 256.0 * double(huge[0]) * double(huge[0]));
  EXPECT_EQ(square_sum(tiny.data(), 256), 0x1p-290);
}

TEST(DitheringSimd, LevelsEqualTheOracles) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (uint64_t seed = 0; seed < 300; ++seed) {
      for (const Grid grid : {Grid::kUniform, Grid::kPowers}) {
        const int s =
            grid == Grid::kUniform ? std::vector{1, 2, 7, 100, 32767}[seed % 5] : std::vector{1, 2, 4, 8, 30}[seed % 5];
        const std::vector<float> z = tile(seed);
        const float largest = std::bit_cast<float>(largest_magnitude(z.data(), kTile));
        float inverse[8];
        for (size_t row = 0; row < 8; ++row) {  // of the tile's norm, one smaller than an element, and none
          const double norm = largest * (row % 3 == 0 ? 1.0 : row % 3 == 1 ? 16.0 : 0.5);
          inverse[row] = row == 7 || norm < 0x1p-96 ? 0.0f : static_cast<float>(units_of_top(grid, s) / norm);
        }
        const uint64_t offset = seed % 2 ? (uint64_t{1} << 38) + 256 * seed : 256 * seed;
        int16_t levels[kTile], expected[kTile];
        dither_levels(grid, s, inverse, z.data(), kKey, offset, levels);
        scalar::dither_levels(grid, s, inverse, z.data(), kKey, offset, expected);
        for (size_t i = 0; i < kTile; ++i) {
          ASSERT_EQ(levels[i], expected[i]) << target << " seed " << seed << " element " << i;
          ASSERT_LE(std::abs(levels[i]), s);
        }
      }
    }
  }
}

// To the last bit: t one float below and at what the element's dither lets pass.
TEST(DitheringSimd, RoundsUpExactlyWhereTheDocumentSays) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    const float one[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    for (const bool at : {false, true}) {
      std::vector<float> z(kTile), powers(kTile);
      for (size_t i = 0; i < kTile; ++i) {
        const uint32_t r = scalar::dither_bits(kKey, i);
        z[i] = 3.0f + static_cast<float>(65535 - r) / 65536 + (at ? 0x1p-16f : 0.0f);  // + U just over 4, or just below
        powers[i] = std::bit_cast<float>(0x40000000u + ((65535u - r) << 7) + 63u + at);
      }
      int16_t levels[kTile];
      dither_levels(Grid::kUniform, 9, one, z.data(), kKey, 0, levels);
      for (size_t i = 0; i < kTile; ++i) ASSERT_EQ(levels[i], at ? 4 : 3) << target << ' ' << i;
      dither_levels(Grid::kPowers, 9, one, powers.data(), kKey, 0, levels);
      for (size_t i = 0; i < kTile; ++i) ASSERT_EQ(levels[i], at ? 3 : 2) << target << ' ' << i;
    }
  }
}

TEST(Dithering, ValuesAreTheLevelsTimesTheUnit) {
  const float unit[8] = {0.5f, 0.25f, 3.0f, 0, 1, 1, 1, 1};
  int16_t levels[70];
  for (int i = 0; i < 70; ++i) levels[i] = static_cast<int16_t>(i % 7 - 3);
  float values[70];
  level_values(Grid::kUniform, unit, levels, 70, values);
  for (int i = 0; i < 70; ++i) EXPECT_EQ(values[i], static_cast<float>(i % 7 - 3) * unit[i / 32]);
  const float powers[7] = {-4, -2, -1, 0, 1, 2, 4};
  level_values(Grid::kPowers, unit, levels, 70, values);
  for (int i = 0; i < 70; ++i) EXPECT_EQ(values[i], powers[i % 7] * unit[i / 32]);
}

}  // namespace
}  // namespace tsq::kernels
