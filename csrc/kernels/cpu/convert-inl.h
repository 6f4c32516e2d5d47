// Elements of any type as float32 and back, one group at a time through L1. Included once per target.
#if defined(TSQ_KERNELS_CPU_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_CONVERT_INL_H_
#undef TSQ_KERNELS_CPU_CONVERT_INL_H_
#else
#define TSQ_KERNELS_CPU_CONVERT_INL_H_
#endif

#include <algorithm>

#include "common/half.h"
#include "hwy/highway.h"
#include "kernels/cpu/block.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {

template <class T>
void Widen(const T* HWY_RESTRICT in, size_t n, float* HWY_RESTRICT out) {
  for (size_t i = 0; i < n; ++i) out[i] = to_float(in[i]);
}

inline void Narrow(const float* HWY_RESTRICT in, size_t n, Half* HWY_RESTRICT out) {
  for (size_t i = 0; i < n; ++i) out[i] = to_half(in[i]);
}
inline void Narrow(const float* HWY_RESTRICT in, size_t n, BFloat16* HWY_RESTRICT out) {
  for (size_t i = 0; i < n; ++i) out[i] = to_bfloat16(in[i]);
}

// out = the quantity to compress, in double, rounded to float32.
inline void RoundQuantity(Form form, const double* HWY_RESTRICT x, const double* HWY_RESTRICT state, size_t n,
                          float* HWY_RESTRICT out) {
  if (form == Form::kPlain) {
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i]);
  } else if (form == Form::kResidual) {
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(state[i] + x[i]);
  } else {
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i] - state[i]);
  }
}

inline void UpdateState(Form form, const double* HWY_RESTRICT x, const float* HWY_RESTRICT values, size_t n,
                        double* HWY_RESTRICT state) {
  if (form == Form::kResidual) {
    for (size_t i = 0; i < n; ++i) state[i] = (state[i] + x[i]) - static_cast<double>(values[i]);
  } else {
    for (size_t i = 0; i < n; ++i) state[i] += static_cast<double>(values[i]);
  }
}

// `count` elements of any type at x[begin]: encode(form, float32 elements, float32 state) does the work, or returns
// false with nothing done, and so does this.
template <class Encode>
HWY_INLINE bool EncodeAnyType(Form form, ConstView x, void* state, size_t begin, size_t count, const Encode& encode) {
  HWY_ALIGN float scratch[kMaxBlock];
  float* const float_state = form == Form::kPlain ? nullptr : static_cast<float*>(state) + begin;
  switch (x.dtype) {
    case DType::kFloat32:
      return encode(form, x.as<float>() + begin, float_state);
    case DType::kFloat16:
      Widen(x.as<Half>() + begin, count, scratch);
      return encode(form, scratch, float_state);
    case DType::kBFloat16:
      Widen(x.as<BFloat16>() + begin, count, scratch);
      return encode(form, scratch, float_state);
    case DType::kFloat64:
      break;
  }
  const double* elements = x.as<double>() + begin;
  double* const double_state = form == Form::kPlain ? nullptr : static_cast<double*>(state) + begin;
  RoundQuantity(form, elements, double_state, count, scratch);
  if (form == Form::kPlain) return encode(form, scratch, nullptr);
  // A shifted state of -0 turns into the decoded values themselves: -0 + v is v, and v - (-0) is v.
  HWY_ALIGN float values[kMaxBlock];
  std::fill_n(values, count, -0.0f);
  if (!encode(Form::kShifted, scratch, values)) return false;
  UpdateState(form, elements, values, count, double_state);
  return true;
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
