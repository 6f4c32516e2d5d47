// A tile of random numbers: every target as the oracle; domain 0 is the quantizer's dither, the others are others.
#include "kernels/philox_tile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/scalar.h"

namespace tsq::kernels {
namespace {

TEST(PhiloxTile, IsTheOraclesOnEveryTarget) {
  size_t count = 0;
  const char* const* targets = simd_targets(&count);
  for (const uint64_t tile : {uint64_t{0}, uint64_t{5}, uint64_t{1} << 27, (uint64_t{1} << 40) + 3}) {
    for (const uint32_t domain : {0u, 1u, 2u, 77u, ~0u}) {
      const PhiloxKey key = philox_key({.seed = tile, .step = domain});
      PhiloxTile expected, found;
      scalar::philox_tile(key, tile, domain, &expected);
      for (size_t t = 0; t < count; ++t) {
        ASSERT_TRUE(force_simd_target(targets[t]));
        philox_tile(key, tile, domain, &found);
        EXPECT_EQ(std::memcmp(&found, &expected, sizeof found), 0) << targets[t] << " " << domain;
      }
      force_simd_target(nullptr);
    }
  }
}

TEST(PhiloxTile, BitsOfWhatIsAtMostABar) {
  size_t count = 0;
  const char* const* targets = simd_targets(&count);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    PhiloxTile words;
    philox_tile(philox_key({.seed = seed}), seed, 1, &words);
    uint32_t bars[PhiloxTile::kElements + 1];
    for (size_t i = 0; i < PhiloxTile::kElements; ++i) {
      const uint32_t dither = words.dither(i);  // one below it, itself, one above, the ends
      bars[i + 1] = std::array<uint32_t, 5>{dither - (dither > 0), dither, dither + 1, 0, 65537}[(i + seed) % 5];
    }
    uint64_t expected[4], found[4];
    scalar::dithers_at_most(words, bars + 1, expected);
    for (size_t t = 0; t < count; ++t) {
      ASSERT_TRUE(force_simd_target(targets[t]));
      dithers_at_most(words, bars + 1, found);
      EXPECT_EQ(std::memcmp(found, expected, sizeof found), 0) << targets[t] << " " << seed;
    }
    force_simd_target(nullptr);
  }
}

TEST(PhiloxTile, DomainZeroIsTheDitherAndOthersAreIndependent) {
  const PhiloxKey key = philox_key({.seed = 9});
  PhiloxTile zero, one;
  philox_tile(key, 5, 0, &zero);
  philox_tile(key, 5, 1, &one);
  size_t equal = 0;
  for (size_t i = 0; i < PhiloxTile::kElements; ++i) {
    ASSERT_EQ(zero.dither(i), scalar::dither_bits(key, 5 * PhiloxTile::kElements + i));
    equal += zero.dither(i) == one.dither(i);
  }
  EXPECT_LT(equal, 5u);
  const auto words = philox4x32({5 * 32 + 3, 0, 0, 0}, key);
  for (size_t k = 0; k < 4; ++k) EXPECT_EQ(zero.word(4 * 3 + k), words[k]);
}

}  // namespace
}  // namespace tsq::kernels
