// The SIMD kernels of uniform steps: what is compiled once per target, and run-time dispatch.
#include "kernels/uniform_step.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/uniform_step.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/uniform_step-inl.h"

#if HWY_ONCE
namespace tsq::kernels {
namespace {

HWY_EXPORT(QuantizeUniform);
HWY_EXPORT(CountUniform);
HWY_EXPORT(EncodeRans);
HWY_EXPORT(DecodeRans);
HWY_EXPORT(AddUniform);

}  // namespace

bool quantize_uniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset,
                      UniformCodes& out) {
  return HWY_DYNAMIC_DISPATCH(QuantizeUniform)(grid, form, x, state, offset, out);
}

UniformCounts count_uniform(const UniformCodes& codes) { return HWY_DYNAMIC_DISPATCH(CountUniform)(codes); }

uint16_t* encode_rans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                      uint16_t* end) {
  return HWY_DYNAMIC_DISPATCH(EncodeRans)(codes, flags, magnitudes, states, end);
}

const uint8_t* decode_rans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                           const uint8_t* end, UniformCodes& codes) {
  return HWY_DYNAMIC_DISPATCH(DecodeRans)(flags, magnitudes, states, in, end, codes);
}

void add_uniform(const UniformCodes& codes, float step, double scale, View acc) {
  HWY_DYNAMIC_DISPATCH(AddUniform)(codes, step, scale, acc);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
