// fp16 and bf16 conversions against the definition of rounding.
#include "common/half.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tsq {
namespace {

// The value of an fp16 pattern from its fields.
double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 31  ? (mantissa == 0 ? INFINITY : NAN)
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return std::copysign(magnitude, (bits & 0x8000) != 0 ? -1.0 : 1.0);
}

TEST(Half, AllPatternsGoThroughFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const double expected = half_value(half.bits);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(to_float(half)));
      EXPECT_TRUE(std::isnan(to_float(to_half(to_float(half)))));
    } else {
      EXPECT_EQ(to_float(half), expected);
      EXPECT_EQ(to_half(to_float(half)).bits, bits);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  for (uint16_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = to_float(Half{bits}), high = to_float(Half{static_cast<uint16_t>(bits + 1)});
    const float middle = (low + high) / 2;
    const uint16_t even = static_cast<uint16_t>(bits + (bits & 1));
    EXPECT_EQ(to_half(middle).bits, even);
    EXPECT_EQ(to_half(std::nextafter(middle, 0.0f)).bits, bits);
    EXPECT_EQ(to_half(std::nextafter(middle, INFINITY)).bits, bits + 1);
    EXPECT_EQ(to_half(-middle).bits, even | 0x8000);
  }
  EXPECT_EQ(to_half(65519.99f).bits, 0x7BFF);
  EXPECT_EQ(to_half(65520.0f).bits, 0x7C00);
  EXPECT_EQ(to_half(-3e38f).bits, 0xFC00);
  EXPECT_EQ(to_half(1e-45f).bits, 0);
}

TEST(BFloat16, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7F7F; ++bits) {
    const uint32_t low = bits << 16, middle = low | 0x8000u, even = bits + (bits & 1u);
    EXPECT_EQ(to_bfloat16(std::bit_cast<float>(low)).bits, bits);
    EXPECT_EQ(to_bfloat16(std::bit_cast<float>(middle)).bits, even);
    EXPECT_EQ(to_bfloat16(std::bit_cast<float>(middle - 1)).bits, bits);
    EXPECT_EQ(to_bfloat16(std::bit_cast<float>(middle + 1)).bits, bits + 1);
    EXPECT_EQ(to_bfloat16(-std::bit_cast<float>(middle)).bits, even | 0x8000u);
  }
  EXPECT_EQ(to_bfloat16(std::bit_cast<float>(0x7F7FFFFFu)).bits, 0x7F80);
  EXPECT_EQ(to_bfloat16(-INFINITY).bits, 0xFF80);
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(NAN))));
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7F800001u)))));  // the mantissa's upper half is 0
}

}  // namespace
}  // namespace tsq
