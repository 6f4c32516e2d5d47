// XXH64: its published values, and an implementation that reads byte by byte.
#include "common/checksum.h"

#include <gtest/gtest.h>

#include <string_view>

#include "vectors.h"

namespace tsq {
namespace {

uint64_t of_text(std::string_view text, uint64_t seed = 0) {
  return checksum({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, seed);
}

TEST(Checksum, IsXXH64) {
  EXPECT_EQ(of_text(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(of_text("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(of_text("abc"), 0x44BC2CF5AD770999u);
  EXPECT_EQ(of_text("xxhash"), 0x32DD38952C4BC720u);
  EXPECT_EQ(of_text("xxhash", 20141025), 0xB559B98D844E0635u);
  EXPECT_EQ(of_text("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1u);
}

// Every byte and every bit counts, wherever it stands in stripes, words and rests; so do length and seed.
TEST(Checksum, EveryAlteredByteChangesIt) {
  std::vector<uint8_t> bytes(150);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37);
  for (const size_t n : {1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 100, 150}) {
    const Bytes text = Bytes(bytes).first(n);
    const uint64_t sum = checksum(text, 5);
    EXPECT_NE(sum, checksum(text, 6));
    EXPECT_NE(sum, checksum(text.first(n - 1), 5));
    for (size_t at = 0; at < n; ++at)
      for (int mask = 1; mask < 256; ++mask) {
        bytes[at] ^= static_cast<uint8_t>(mask);
        ASSERT_NE(sum, checksum(text, 5)) << n << " " << at << " " << mask;
        bytes[at] ^= static_cast<uint8_t>(mask);
      }
  }
}

TEST(Checksum, DoesNotDependOnAlignment) {
  std::vector<uint8_t> text(300), memory(320);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<uint8_t>(i * i);
  for (size_t shift = 0; shift < 16; ++shift) {
    std::ranges::copy(text, memory.begin() + static_cast<std::ptrdiff_t>(shift));
    EXPECT_EQ(checksum(Bytes(memory).subspan(shift, text.size()), 1), checksum(text, 1));
  }
}

}  // namespace
}  // namespace tsq
