// The two 8-bit formats of the OCP specification (2023), as bit patterns: round to nearest, ties to even, what is too
// large to the largest finite number. Free of branches, so that loops over them vectorize.
#pragma once

#include <bit>
#include <cstdint>

namespace tsq {

/// kMantissa bits of mantissa, 7 - kMantissa of exponent; kLargest: the code of the largest finite number.
template <int kMantissa, uint32_t kLargest>
struct Float8 {
  static constexpr uint32_t kLargestCode = kLargest;
  static constexpr uint32_t kBias = (1u << (6 - kMantissa)) - 1;
  static constexpr int kShift = 23 - kMantissa;
  static constexpr uint32_t kRebias = (127 - kBias) << 23;
  /// Its last bit in float32 is the smallest number here, 2^(1 - kBias - kMantissa).
  static constexpr float kDenormalUnit = std::bit_cast<float>((127 + 1 - kBias - kMantissa + 23) << 23);

  static constexpr uint8_t encode(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7FFFFFFFu;
    const uint32_t smallest_normal = kRebias + (1u << 23);
    const uint32_t even = magnitude >> kShift & 1u;
    const uint32_t normal = (magnitude - kRebias + (1u << (kShift - 1)) - 1 + even) >> kShift;
    const float shifted = std::bit_cast<float>(magnitude < smallest_normal ? magnitude : 0u) + kDenormalUnit;
    const uint32_t denormal = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kDenormalUnit);
    const uint32_t code = magnitude < smallest_normal ? denormal : normal;
    return static_cast<uint8_t>((code < kLargest ? code : kLargest) | (bits >> 24 & 0x80u));
  }

  /// Of a code up to kLargest, its sign aside.
  static constexpr float decode(uint8_t code) {
    const uint32_t magnitude = static_cast<uint32_t>(code & 0x7F) << kShift;
    // A denormal: put the mantissa into that of the smallest normal number and take that away, which is exact.
    const uint32_t smallest_normal = kRebias + (1u << 23);
    const float denormal = std::bit_cast<float>(magnitude + smallest_normal) - std::bit_cast<float>(smallest_normal);
    const uint32_t bits = magnitude < (1u << 23) ? std::bit_cast<uint32_t>(denormal) : magnitude + kRebias;
    return std::bit_cast<float>(bits | static_cast<uint32_t>(code & 0x80) << 24);
  }

  static constexpr bool finite(uint8_t code) { return (code & 0x7Fu) <= kLargest; }
};

using FloatE4M3 = Float8<3, 0x7E>;  ///< largest 448; 0x7F is NaN
using FloatE5M2 = Float8<2, 0x7B>;  ///< largest 57344; from 0x7C on Inf and NaN

static_assert(FloatE4M3::decode(0x7E) == 448.0f && FloatE4M3::decode(0x01) == 0x1p-9f);
static_assert(FloatE5M2::decode(0x7B) == 57344.0f && FloatE5M2::decode(0x01) == 0x1p-16f);

}  // namespace tsq
