// What the oracles share: element types as plain values, and the dither.
#pragma once

#include <bit>
#include <cstdint>

#include "common/half.h"
#include "kernels/cpu/block.h"

namespace tsq::kernels::scalar {

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(Half v) { return to_float(v); }
inline float widen(BFloat16 v) { return to_float(v); }

inline void narrow(float v, float* out) { *out = v; }
inline void narrow(double v, double* out) { *out = v; }
inline void narrow(float v, Half* out) { *out = to_half(v); }
inline void narrow(float v, BFloat16* out) { *out = to_bfloat16(v); }

inline uint32_t magnitude_bits(float v) { return std::bit_cast<uint32_t>(v) & ~kSignBit; }

/// Calls visit(pointer to the element type) for the type that `dtype` names.
template <class ViewType, class Visit>
auto with_type(const ViewType& view, Visit visit) {
  switch (view.dtype) {
    case DType::kFloat64:
      return visit(view.template as<double>());
    case DType::kFloat16:
      return visit(view.template as<Half>());
    case DType::kBFloat16:
      return visit(view.template as<BFloat16>());
    case DType::kFloat32:
      break;
  }
  return visit(view.template as<float>());
}

/// r of the parameter's element `index`: 16 bits of Philox.
inline uint32_t dither_bits(PhiloxKey key, uint64_t index) {
  const uint64_t in_tile = index % kTile;
  const uint64_t counter = index / kTile * kLanes + in_tile % kLanes;
  const uint64_t row = in_tile / kLanes;
  const auto words = philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}, key);
  return words[row / 2] >> (16 * (row % 2)) & 0xFFFFu;
}

}  // namespace tsq::kernels::scalar
