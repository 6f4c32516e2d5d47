// Philox against Random123's known answers, and the keys of streams.
#include "common/philox.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace tsq {
namespace {

using Words = std::array<uint32_t, 4>;

constexpr Words kOnes{0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu};
constexpr Words kPi{0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u};

TEST(Philox, TenRoundsGiveTheKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  EXPECT_EQ(philox4x32(kOnes, {0xFFFFFFFFu, 0xFFFFFFFFu}), (Words{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
  EXPECT_EQ(philox4x32(kPi, {0xA4093822u, 0x299F31D0u}), (Words{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}));
}

TEST(Philox, SevenRoundsGiveTheKnownAnswer) {
  EXPECT_EQ(philox4x32<7>({0, 0, 0, 0}, {0, 0}), (Words{0x5F6FB709u, 0x0D893F64u, 0x4F121F81u, 0x4F730A48u}));
}

constexpr uint64_t joined(PhiloxKey key) { return key.low | uint64_t{key.high} << 32; }

TEST(PhiloxKey, IsFixed) {
  // Computed independently from the definition in docs/wire_format.md.
  EXPECT_EQ(joined(philox_key({})), 0x2130748AAAC80268u);
  EXPECT_EQ(joined(philox_key({1, 2, 3, true, 4})), 0xA08B93058662CE37u);
}

TEST(PhiloxKey, DiffersBetweenNeighbours) {
  std::set<uint64_t> keys;
  size_t count = 0;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (uint64_t step = 0; step < 16; ++step) {
      for (uint32_t rank = 0; rank < 16; ++rank) {
        for (const bool averaged : {false, true}) {
          for (uint64_t parameter = 0; parameter < 16; ++parameter, ++count) {
            keys.insert(joined(philox_key({seed, step, rank, averaged, parameter})));
          }
        }
      }
    }
  }
  EXPECT_EQ(keys.size(), count);
}

}  // namespace
}  // namespace tsq
