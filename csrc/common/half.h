// Exact conversions between float32 and the two 16-bit formats, as bit patterns; round to nearest, ties to even.
// Free of branches, so that loops over them vectorize. Inf, NaN (kept a NaN) and denormals are right.
#pragma once

#include <bit>
#include <cstdint>

namespace tsq {

/// An IEEE binary16 element. Storage only.
struct Half {
  uint16_t bits;
};

/// A bfloat16 element: the upper half of a float32. Storage only.
struct BFloat16 {
  uint16_t bits;
};

constexpr float to_float(Half half) {
  constexpr uint32_t kExponent = 0x7C00u << 13;
  const uint32_t magnitude = (half.bits & 0x7FFFu)
                             << 13;  // the fields in float32's places, exponent still biased by 15
  const uint32_t exponent = magnitude & kExponent;
  const uint32_t normal = magnitude + ((127u - 15u) << 23) + (exponent == kExponent ? (128u - 16u) << 23 : 0u);
  // A denormal m * 2^-24: put m into the mantissa of 2^-14 and take 2^-14 away, which is exact.
  const float denormal = std::bit_cast<float>(magnitude + (113u << 23)) - std::bit_cast<float>(113u << 23);
  const uint32_t bits = exponent == 0 ? std::bit_cast<uint32_t>(denormal) : normal;
  return std::bit_cast<float>(bits | (half.bits & 0x8000u) << 16);
}

constexpr Half to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Rounds the mantissa to ten bits; a carry runs into the exponent, and past 65504 it makes Inf by itself.
  const uint32_t normal = (magnitude - ((127u - 15u) << 23) + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  // Adding 0.5 leaves units of 2^-24 in the mantissa, rounded to nearest even by the addition.
  const float shifted = std::bit_cast<float>(magnitude < (113u << 23) ? magnitude : 0u) + 0.5f;
  const uint32_t denormal = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f);
  const uint32_t special = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  const uint32_t finite = magnitude < (113u << 23) ? denormal : normal;
  const uint32_t result = magnitude >= (143u << 23) ? special : finite;  // 143: 2^16
  return {static_cast<uint16_t>(result | (bits >> 16 & 0x8000u))};
}

constexpr float to_float(BFloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

constexpr BFloat16 to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return {static_cast<uint16_t>(nan ? (bits >> 16 | 0x40u) : rounded)};
}

}  // namespace tsq
