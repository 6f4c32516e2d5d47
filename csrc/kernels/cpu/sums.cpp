// The SIMD kernels of sums: what is compiled once per target, and run-time dispatch.
#include "kernels/sums.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sums.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/sums-inl.h"

#if HWY_ONCE
namespace tsq::kernels {
namespace {

HWY_EXPORT(SumsBelow);
HWY_EXPORT(MomentsOf);
HWY_EXPORT(AddSquareDistances);
HWY_EXPORT(AddSquareDistancesOfTwo);

}  // namespace

SumBelow sum_below(const float* x, size_t n, double bar) { return HWY_DYNAMIC_DISPATCH(SumsBelow)(x, n, bar); }

Moments moments(const float* x, size_t n, double factor) { return HWY_DYNAMIC_DISPATCH(MomentsOf)(x, n, factor); }

void add_square_distances(const float* x, const float* h, size_t n, float* lanes) {
  HWY_DYNAMIC_DISPATCH(AddSquareDistances)(x, h, n, lanes);
}

uint32_t add_square_distances(const float* x, const float* h, const float* y, size_t n, float* to_h, float* to_y) {
  return HWY_DYNAMIC_DISPATCH(AddSquareDistancesOfTwo)(x, h, y, n, to_h, to_y);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
