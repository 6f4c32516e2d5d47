// 8-bit floats: what is compiled once per target, and run-time dispatch.
#include "kernels/float8.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/float8.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/float8-inl.h"

#if HWY_ONCE
namespace tsq::kernels {
namespace {

HWY_EXPORT(EncodeE4M3);
HWY_EXPORT(EncodeE5M2);
HWY_EXPORT(DecodeE4M3);
HWY_EXPORT(DecodeE5M2);

}  // namespace

void encode_float8(Float8Format format, const float* z, size_t m, float factor, uint8_t* out) {
  format == Float8Format::kE4M3 ? HWY_DYNAMIC_DISPATCH(EncodeE4M3)(z, m, factor, out)
                                : HWY_DYNAMIC_DISPATCH(EncodeE5M2)(z, m, factor, out);
}

void decode_float8(Float8Format format, const uint8_t* in, size_t m, float scale, float* values) {
  format == Float8Format::kE4M3 ? HWY_DYNAMIC_DISPATCH(DecodeE4M3)(in, m, scale, values)
                                : HWY_DYNAMIC_DISPATCH(DecodeE5M2)(in, m, scale, values);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
