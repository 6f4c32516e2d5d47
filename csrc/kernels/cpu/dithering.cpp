// The SIMD kernels of dithering: what is compiled once per target, and run-time dispatch.
#include "kernels/dithering.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/dithering.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/dithering-inl.h"

#if HWY_ONCE
namespace tsq::kernels {
namespace {

HWY_EXPORT(SquareSum);
HWY_EXPORT(LargestMagnitude);
HWY_EXPORT(DitherLevels);

}  // namespace

double square_sum(const float* z, size_t m) { return HWY_DYNAMIC_DISPATCH(SquareSum)(z, m); }

uint32_t largest_magnitude(const float* z, size_t m) { return HWY_DYNAMIC_DISPATCH(LargestMagnitude)(z, m); }

void dither_levels(Grid grid, int s, const float* inverse, const float* z, PhiloxKey key, uint64_t offset,
                   int16_t* levels) {
  HWY_DYNAMIC_DISPATCH(DitherLevels)(grid, s, inverse, z, key, offset, levels);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
