// What the oracle and the SIMD kernels share: constants of docs/wire_format.md, codec 1, and the few scalar operations
// per block. Every function here is a handful of fp32 operations in the order that the document fixes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "common/bytes.h"
#include "common/half.h"
#include "kernels/quantizer.h"

namespace tsq::kernels {

constexpr size_t kTile = 256;       ///< elements whose codes are packed together
constexpr size_t kLanes = 32;       ///< element i of a tile stands in lane i mod 32
constexpr size_t kMaxBlock = 4096;  ///< also the largest group
constexpr float kRounder =
    12582912.0f;  ///< 1.5 * 2^23: (v + kRounder) - kRounder rounds half to even for abs(v) < 2^22
constexpr uint32_t kSignBit = 0x80000000u;
constexpr uint32_t kTinyBits = 0x04800000u;       ///< 2^-118: blocks whose largest magnitude is below are empty
constexpr uint32_t kTinyShortBits = 0x0C800000u;  ///< 2^-102: the same with 16-bit scales, so that none is a denormal
constexpr uint32_t kHugeBits = 0x7B800000u;       ///< 2^120: from here on `fit` keeps to unit scales
constexpr uint32_t kInfBits = 0x7F800000u;
inline constexpr uint32_t kExtraordinaryBits = 0x6F800000u;  // 2^96
constexpr uint32_t kNaturalMinBits = 0x00800000u;            // 2^-126: natural compression sends 0 for what is below
constexpr uint32_t kNaturalLimitBits = 0x7F000000u;          // 2^127: and does not send what reaches this
constexpr float kMidRiseSteps[9] = {0.0f, 1.596f, 0.9957f, 0.586f, 0.3352f, 0.1881f, 0.1041f, 0.0569f, 0.0308f};

/// s = 2^(bits-1) - 1, the largest level of the zero-centred grid.
constexpr int centre(int bits) { return (1 << (bits - 1)) - 1; }

/// The level that the largest magnitude of a block is mapped to (p of the document; 1 at one bit).
constexpr float peak_level(int bits) { return bits == 1 ? 1.0f : static_cast<float>(centre(bits)); }

/// The largest scale that keeps the outermost level finite.
inline float scale_cap(float top) { return 0x1.FFFFFp127f / top; }

/// The largest legal code of a block with this scale, or -1 if the scale is illegal.
inline int largest_code(int bits, bool fit, uint32_t scale) {
  const bool mid_rise = (scale & kSignBit) != 0;
  if (scale == 0) return 0;
  const int top = (1 << bits) - 1;
  const float cap = scale_cap(mid_rise ? static_cast<float>(top) : peak_level(bits));
  const bool bounded = std::bit_cast<float>(scale & ~kSignBit) <= cap;  // false for a NaN
  if (!bounded || (mid_rise && !fit) || (fit && bits == 1 && !mid_rise)) return -1;
  return mid_rise || bits == 1 ? top : 2 * centre(bits);
}

/// The value of a code in units of abs(scale).
constexpr int level(int bits, bool mid_rise, int code) {
  return mid_rise || bits == 1 ? 2 * code + 1 - (1 << bits) : code - centre(bits);
}

/// Scale j of the group that begins at `group`, as a float's bit pattern: of a 16-bit one, the upper half.
inline uint32_t read_scale(const QuantizerParams& params, const uint8_t* group, size_t j) {
  return params.bf16_scales ? uint32_t{load<uint16_t>(group + 2 * j)} << 16 : load<uint32_t>(group + 4 * j);
}

/// The inverse; with 16-bit scales the lower half of `scale` is 0.
inline void write_scale(const QuantizerParams& params, uint32_t scale, size_t j, uint8_t* group) {
  if (params.bf16_scales)
    store<uint16_t>(group + 2 * j, static_cast<uint16_t>(scale >> 16));
  else
    store<uint32_t>(group + 4 * j, scale);
}

/// Blocks whose largest magnitude is below are empty.
inline uint32_t tiny_bits(const QuantizerParams& params) { return params.bf16_scales ? kTinyShortBits : kTinyBits; }

// Positive floats to bfloat16 numbers: the smallest that is not below v, the largest that is not above, the nearest.
inline float bf16_up(float v) { return std::bit_cast<float>((std::bit_cast<uint32_t>(v) + 0xFFFFu) & 0xFFFF0000u); }
inline float bf16_down(float v) { return std::bit_cast<float>(std::bit_cast<uint32_t>(v) & 0xFFFF0000u); }
inline float bf16_nearest(float v) { return to_float(to_bfloat16(v)); }

/// A scale that is meant as `scale`, as it is sent: no larger than `cap`.
inline float final_scale(const QuantizerParams& params, float scale, float cap) {
  if (params.bf16_scales) scale = bf16_nearest(scale), cap = bf16_down(cap);
  return scale < cap ? scale : cap;
}

/// How a block maps to codes: x * inverse is in units of the grid, unit the value of one unit.
struct Normalizer {
  float inverse;
  float unit;
};

/// `magnitude`: the bit pattern of the block's largest absolute value, at least tiny_bits and finite.
inline Normalizer normalizer(const QuantizerParams& params, uint32_t magnitude) {
  const float largest = std::bit_cast<float>(magnitude);
  const float peak = peak_level(params.bits), unit = largest / peak;
  const bool half = params.bits == 1 && params.rounding != Rounding::kFit;
  if (params.bf16_scales && params.rounding != Rounding::kFit) {
    // Unbiased: the grid itself is that of the scale that is sent, up to a maximum not below the block's.
    const float rounded = bf16_up(unit), cap = bf16_down(scale_cap(peak)), sent = rounded < cap ? rounded : cap;
    return {(half ? 0.5f : 1.0f) / sent, sent};
  }
  return {(half ? 0.5f : peak) / largest, unit};
}

/// The scale of an "unbiased" block.
inline float unbiased_scale(const QuantizerParams& params, float unit) {
  const float cap = scale_cap(peak_level(params.bits)), scale = (unit < cap ? unit : cap) * params.shrink;
  return params.bf16_scales ? bf16_nearest(scale) : scale;
}

/// 1 / step of the mid-rise grid for a block of `count` elements whose squares (in units) sum up to `square_sum`.
inline float mid_rise_inverse(int bits, float square_sum, float count) {
  return 1.0f / (kMidRiseSteps[bits] * std::sqrt(square_sum / count));
}

/// Inner products of the scaled block y with the candidates' levels, and the levels' squared norms.
struct FitSums {
  float y_centred, centred_centred;     // A0, B0
  float y_mid_rise, mid_rise_mid_rise;  // A1, B1
};

struct FitChoice {
  bool mid_rise;
  float scale;  ///< non-negative; the wire's sign bit is set for mid-rise
};

/// Which grid is nearer to the block in direction, and the scale that projects onto it.
inline FitChoice choose_fit(const QuantizerParams& params, uint32_t magnitude, float unit, const FitSums& sums) {
  const int bits = params.bits;
  const bool huge = magnitude >= kHugeBits;
  const float merit_centred = (sums.y_centred * sums.y_centred) * sums.mid_rise_mid_rise;
  const float merit_mid_rise = (sums.y_mid_rise * sums.y_mid_rise) * sums.centred_centred;
  const bool mid_rise = bits == 1 || (!huge && merit_mid_rise > merit_centred);
  float scale = unit;
  if (mid_rise) {
    scale = (sums.y_mid_rise / sums.mid_rise_mid_rise) * unit;
  } else if (!huge) {
    scale = (sums.y_centred / sums.centred_centred) * unit;
  }
  const float cap = scale_cap(mid_rise ? static_cast<float>((1 << bits) - 1) : peak_level(bits));
  return {mid_rise, final_scale(params, scale, cap)};
}

/// What a Sign block's magnitudes are multiplied by before they are added up, so that 4096 of them do not overflow.
inline float sign_factor(uint32_t magnitude) { return magnitude >= kExtraordinaryBits ? 0x1p-16f : 1.0f; }

/// The scale of a Sign block of `count` elements; `sum`: of the magnitudes times sign_factor.
inline float sign_scale(const QuantizerParams& params, uint32_t magnitude, float sum, float count) {
  return final_scale(params, (sum / count) * (1.0f / sign_factor(magnitude)), scale_cap(1.0f));
}

namespace scalar {
/// dequantize_mean of the elements from `begin` (a multiple of the group) on of each payload into all of `out`.
void dequantize_mean_from(const QuantizerParams& params, const uint8_t* const* in, size_t count, size_t begin,
                          View out);
}  // namespace scalar

}  // namespace tsq::kernels
