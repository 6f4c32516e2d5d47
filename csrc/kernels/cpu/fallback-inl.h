// The entry points of a target without vectors: the scalar oracle. Included once per such target.
#if defined(TSQ_KERNELS_CPU_FALLBACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_FALLBACK_INL_H_
#undef TSQ_KERNELS_CPU_FALLBACK_INL_H_
#else
#define TSQ_KERNELS_CPU_FALLBACK_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/quantizer.h"

#if !TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {

bool Quantize(const QuantizerParams& params, Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset,
              uint8_t* out) {
  return scalar::quantize(params, form, x, state, key, offset, out);
}

void DequantizeAdd(const QuantizerParams& params, const uint8_t* in, size_t n, double scale, View acc) {
  scalar::dequantize_add(params, in, n, scale, acc);
}

void DequantizeMean(const QuantizerParams& params, const uint8_t* const* in, size_t count, View out) {
  scalar::dequantize_mean(params, in, count, out);
}

bool ValidPayload(const QuantizerParams& params, const uint8_t* in, size_t n) {
  return scalar::valid_payload(params, in, n);
}

bool AllFinite(ConstView x) { return scalar::all_finite(x); }

bool AllOrdinary(ConstView x) { return scalar::all_ordinary(x); }

bool AllZero(ConstView x) { return scalar::all_zero(x); }

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
