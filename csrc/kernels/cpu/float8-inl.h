// 8-bit floats: plain loops, which the compiler turns into vectors of each target. Included once per target.
#if defined(TSQ_KERNELS_CPU_FLOAT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_FLOAT8_INL_H_
#undef TSQ_KERNELS_CPU_FLOAT8_INL_H_
#else
#define TSQ_KERNELS_CPU_FLOAT8_INL_H_
#endif

#include "common/fp8.h"
#include "hwy/highway.h"
#include "kernels/float8.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {

template <class F>
void EncodeFloat8(const float* HWY_RESTRICT z, size_t m, float factor, uint8_t* HWY_RESTRICT out) {
  for (size_t i = 0; i < m; ++i) out[i] = F::encode(z[i] * factor);
}

template <class F>
void DecodeFloat8(const uint8_t* HWY_RESTRICT in, size_t m, float scale, float* HWY_RESTRICT values) {
  for (size_t i = 0; i < m; ++i) values[i] = F::decode(in[i]) * scale;
}

void EncodeE4M3(const float* z, size_t m, float factor, uint8_t* out) { EncodeFloat8<FloatE4M3>(z, m, factor, out); }
void EncodeE5M2(const float* z, size_t m, float factor, uint8_t* out) { EncodeFloat8<FloatE5M2>(z, m, factor, out); }
void DecodeE4M3(const uint8_t* in, size_t m, float scale, float* values) {
  DecodeFloat8<FloatE4M3>(in, m, scale, values);
}
void DecodeE5M2(const uint8_t* in, size_t m, float scale, float* values) {
  DecodeFloat8<FloatE5M2>(in, m, scale, values);
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
