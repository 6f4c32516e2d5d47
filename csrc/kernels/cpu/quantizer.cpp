// The SIMD kernels: what is compiled once per target, and run-time dispatch. Full groups are done here, the last,
// partial group and groups with an element that is huge or not finite by the scalar oracle, which gives the same bytes.
#include "kernels/quantizer.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantizer.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/driver-inl.h"
#include "kernels/cpu/fallback-inl.h"

#if HWY_ONCE
#include <cstring>

namespace tsq::kernels {
namespace {

HWY_EXPORT(Quantize);
HWY_EXPORT(DequantizeAdd);
HWY_EXPORT(DequantizeMean);
HWY_EXPORT(ValidPayload);
HWY_EXPORT(AllFinite);
HWY_EXPORT(AllOrdinary);
HWY_EXPORT(AllZero);

// Bits of the targets that are compiled in and that this CPU runs, lowest (best) first; without the scalar fallback.
int64_t usable_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS & ~TSQ_HWY_FALLBACKS;
  return targets;
}

}  // namespace

bool quantize(const QuantizerParams& params, Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset,
              uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(Quantize)(params, form, x, state, key, offset, out);
}

void dequantize_add(const QuantizerParams& params, const uint8_t* in, size_t n, double scale, View acc) {
  HWY_DYNAMIC_DISPATCH(DequantizeAdd)(params, in, n, scale, acc);
}

void dequantize_mean(const QuantizerParams& params, const uint8_t* const* in, size_t count, View out) {
  HWY_DYNAMIC_DISPATCH(DequantizeMean)(params, in, count, out);
}

bool valid_payload(const QuantizerParams& params, const uint8_t* in, size_t n) {
  return HWY_DYNAMIC_DISPATCH(ValidPayload)(params, in, n);
}

bool all_finite(ConstView x) { return HWY_DYNAMIC_DISPATCH(AllFinite)(x); }

bool all_ordinary(ConstView x) { return HWY_DYNAMIC_DISPATCH(AllOrdinary)(x); }

bool all_zero(ConstView x) { return HWY_DYNAMIC_DISPATCH(AllZero)(x); }

const char* const* simd_targets(size_t* count) {
  static const char* names[64];
  static const size_t usable = [] {
    size_t n = 0;
    for (int64_t rest = usable_targets(); rest != 0; rest &= rest - 1) names[n++] = hwy::TargetName(rest & -rest);
    return n;
  }();
  *count = usable;
  return names;
}

bool force_simd_target(const char* name) {
  int64_t chosen = 0;  // Highway: 0 lifts the restriction
  for (int64_t rest = name != nullptr ? usable_targets() : 0; rest != 0; rest &= rest - 1) {
    if (std::strcmp(hwy::TargetName(rest & -rest), name) == 0) chosen = rest & -rest;
  }
  if (name != nullptr && chosen == 0) return false;
  usable_targets();  // remember them before they are restricted
  hwy::SetSupportedTargetsForTest(chosen);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
