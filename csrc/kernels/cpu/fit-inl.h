// The sums behind `fit` and Sign's scale. Included once per target.
#if defined(TSQ_KERNELS_CPU_FIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_FIT_INL_H_
#undef TSQ_KERNELS_CPU_FIT_INL_H_
#else
#define TSQ_KERNELS_CPU_FIT_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/block.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 32 running sums in 32 / Lanes(d) vectors, added up in the order that the wire format fixes.
template <class D>
class LaneSums {
 public:
  using V = hn::Vec<D>;
  static constexpr size_t kVectors = kLanes / hn::MaxLanes(D());

  HWY_INLINE LaneSums() {
    for (size_t i = 0; i < kVectors; ++i) sums_[i] = hn::Zero(D());
  }
  HWY_INLINE void Add(size_t vector, V v) { sums_[vector] = hn::Add(sums_[vector], v); }

  HWY_INLINE float Total() {
    for (size_t width = kVectors / 2; width > 0; width /= 2) {
      for (size_t i = 0; i < width; ++i) sums_[i] = hn::Add(sums_[i], sums_[i + width]);
    }
    return Fold(D(), sums_[0]);
  }

 private:
  template <class Any>
  static HWY_INLINE float Fold(Any d, hn::Vec<Any> v) {
    if constexpr (hn::MaxLanes(Any()) > 4) {
      const hn::Half<Any> half;
      return Fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
    } else {
      v = hn::Add(v, hn::Shuffle1032(v));
      v = hn::Add(v, hn::Shuffle2301(v));
      (void)d;
      return hn::GetLane(v);
    }
  }

  V sums_[kVectors];
};

// The scale of one full Sign block of finite quantities.
HWY_INLINE float SignScale(const QuantizerParams& params, const float* HWY_RESTRICT quantity, uint32_t magnitude) {
  using D = hn::CappedTag<float, 16>;
  const D d;
  const size_t N = hn::Lanes(d);
  const auto factor = hn::Set(d, sign_factor(magnitude));
  LaneSums<D> sums;
  for (size_t row = 0; row < params.block; row += kLanes) {
    for (size_t vector = 0; vector < LaneSums<D>::kVectors; ++vector) {
      sums.Add(vector, hn::Mul(hn::Abs(hn::Load(d, quantity + row + vector * N)), factor));
    }
  }
  return sign_scale(params, magnitude, sums.Total(), static_cast<float>(params.block));
}

struct FitResult {
  FitChoice choice;
  float mid_rise_inverse;
};

// Chooses grid and scale for one full block of finite quantities.
HWY_INLINE FitResult FitBlock(const QuantizerParams& params, const float* HWY_RESTRICT quantity, uint32_t magnitude,
                              const Normalizer& norm) {
  const int bits = params.bits;
  const size_t count = params.block;
  const hn::CappedTag<float, 16> d;
  using D = hn::CappedTag<float, 16>;
  const size_t N = hn::Lanes(d);
  const auto inverse = hn::Set(d, norm.inverse), rounder = hn::Set(d, kRounder);

  // abs(y) exceeds the peak level by rounding at most, so that rint(y) needs no clipping here.
  LaneSums<D> squares, y_centred, centred_centred;
  for (size_t row = 0; row < count; row += kLanes) {
    for (size_t vector = 0; vector < LaneSums<D>::kVectors; ++vector) {
      const auto y = hn::Mul(hn::Load(d, quantity + row + vector * N), inverse);
      squares.Add(vector, hn::Mul(y, y));
      if (bits == 1) continue;
      const auto q = hn::Sub(hn::Add(y, rounder), rounder);
      y_centred.Add(vector, hn::Mul(y, q));
      centred_centred.Add(vector, hn::Mul(q, q));
    }
  }
  FitResult result;
  result.mid_rise_inverse = mid_rise_inverse(bits, squares.Total(), static_cast<float>(count));
  FitSums sums;
  sums.y_centred = y_centred.Total();
  sums.centred_centred = centred_centred.Total();

  const auto gain = hn::Set(d, result.mid_rise_inverse), half = hn::Set(d, 0.5f), one = hn::Set(d, 1.0f);
  const float levels = static_cast<float>(1 << (bits - 1));
  const auto low = hn::Set(d, kRounder - levels), high = hn::Set(d, kRounder + (levels - 1.0f));
  LaneSums<D> y_odd, odd_odd;
  for (size_t row = 0; row < count; row += kLanes) {
    for (size_t vector = 0; vector < LaneSums<D>::kVectors; ++vector) {
      const auto y = hn::Mul(hn::Load(d, quantity + row + vector * N), inverse);
      const auto v = hn::Add(hn::Sub(hn::Mul(y, gain), half), rounder);
      const auto k = hn::Sub(hn::Min(hn::Max(v, low), high), rounder);
      const auto odd = hn::Add(hn::Add(k, k), one);
      y_odd.Add(vector, hn::Mul(y, odd));
      odd_odd.Add(vector, hn::Mul(odd, odd));
    }
  }
  sums.y_mid_rise = y_odd.Total();
  sums.mid_rise_mid_rise = odd_odd.Total();
  result.choice = choose_fit(params, magnitude, norm.unit, sums);
  return result;
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
