// The SIMD kernels of natural compression: what is compiled once per target, and run-time dispatch.
#include "kernels/natural.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/natural.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/natural-inl.h"

#if HWY_ONCE
namespace tsq::kernels {
namespace {

HWY_EXPORT(EncodeNatural);
HWY_EXPORT(DecodeNaturalAdd);
HWY_EXPORT(DecodeNaturalMean);
HWY_EXPORT(ValidNatural);

}  // namespace

bool encode_natural(Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(EncodeNatural)(form, x, state, key, offset, out);
}

void decode_natural_add(const uint8_t* in, size_t n, double scale, View acc) {
  HWY_DYNAMIC_DISPATCH(DecodeNaturalAdd)(in, n, scale, acc);
}

void decode_natural_mean(const uint8_t* const* in, size_t count, View out) {
  HWY_DYNAMIC_DISPATCH(DecodeNaturalMean)(in, count, out);
}

bool valid_natural(const uint8_t* in, size_t n) { return HWY_DYNAMIC_DISPATCH(ValidNatural)(in, n); }

}  // namespace tsq::kernels
#endif  // HWY_ONCE
