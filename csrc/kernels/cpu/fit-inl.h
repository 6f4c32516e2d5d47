// The sums behind `fit` and Sign's scale. Included once per target.
#if defined(TSQ_KERNELS_CPU_FIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_FIT_INL_H_
#undef TSQ_KERNELS_CPU_FIT_INL_H_
#else
#define TSQ_KERNELS_CPU_FIT_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/block.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kRunBlocks = 8;  // of which what is common is found together

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
  // Adds q * q where neither that nor the sum is rounded.
  HWY_INLINE void AddExactSquare(size_t vector, V q) { sums_[vector] = hn::MulAdd(q, q, sums_[vector]); }

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
      sums.Add(vector, hn::Mul(hn::Abs(hn::LoadU(d, quantity + row + vector * N)), factor));
    }
  }
  return sign_scale(params, magnitude, sums.Total(), static_cast<float>(params.block));
}

struct BlockFit {
  FitChoice choice;
  float mid_rise_inverse;
};

// The inner products with the zero-centred grid's levels q, and the squares' sum. abs(y) exceeds the peak level by
// rounding at most, so that rint(y) needs no clipping here. Levels are integers, and sums of at most 4096 of their
// squares (over 32 lanes: 128) too small to be rounded: there, and only there, one rounding or two is the same.
HWY_INLINE float CentredSums(const QuantizerParams& params, const float* HWY_RESTRICT quantity, float inverse,
                             const float* ahead, FitSums& fit) {
  using D = hn::CappedTag<float, 16>;
  const D d;
  const size_t N = hn::Lanes(d);
  const auto rounder = hn::Set(d, kRounder);
  LaneSums<D> squares, y_centred, centred_centred;
  for (size_t row = 0; row < params.block; row += kLanes) {
    for (size_t vector = 0; vector < LaneSums<D>::kVectors; ++vector) {
      hwy::Prefetch(ahead + row + vector * N);
      const auto y = hn::Mul(hn::LoadU(d, quantity + row + vector * N), hn::Set(d, inverse));
      squares.Add(vector, hn::Mul(y, y));
      if (params.bits == 1) continue;
      const auto q = hn::Sub(hn::Add(y, rounder), rounder);
      y_centred.Add(vector, hn::Mul(y, q));
      centred_centred.AddExactSquare(vector, q);
    }
  }
  fit.y_centred = y_centred.Total();
  fit.centred_centred = centred_centred.Total();
  return squares.Total();
}

// The inner products with the mid-rise grid's levels 2k + 1; `gain` is 1 / step.
HWY_INLINE void MidRiseSums(const QuantizerParams& params, const float* HWY_RESTRICT quantity, float inverse,
                            float gain, const float* ahead, FitSums& fit) {
  using D = hn::CappedTag<float, 16>;
  const D d;
  const size_t N = hn::Lanes(d);
  const auto half = hn::Set(d, 0.5f), one = hn::Set(d, 1.0f), rounder = hn::Set(d, kRounder);
  const float levels = static_cast<float>(1 << (params.bits - 1));
  const auto low = hn::Set(d, kRounder - levels), high = hn::Set(d, kRounder + (levels - 1.0f));
  LaneSums<D> y_odd, odd_odd;
  for (size_t row = 0; row < params.block; row += kLanes) {
    for (size_t vector = 0; vector < LaneSums<D>::kVectors; ++vector) {
      hwy::Prefetch(ahead + row + vector * N);
      const auto y = hn::Mul(hn::LoadU(d, quantity + row + vector * N), hn::Set(d, inverse));
      const auto v = hn::Add(hn::Sub(hn::Mul(y, hn::Set(d, gain)), half), rounder);
      const auto k = hn::Sub(hn::Min(hn::Max(v, low), high), rounder);
      const auto odd = hn::Add(hn::Add(k, k), one);
      y_odd.Add(vector, hn::Mul(y, odd));
      odd_odd.AddExactSquare(vector, odd);
    }
  }
  fit.y_mid_rise = y_odd.Total();
  fit.mid_rise_mid_rise = odd_odd.Total();
}

// Chooses grid and scale for each of several full blocks of finite quantities; of empty ones nothing. Fetches as many
// elements from `ahead` and `ahead_too`.
HWY_INLINE void FitBlocks(const QuantizerParams& params, const float* HWY_RESTRICT quantity, const uint32_t* magnitudes,
                          const Normalizer* norms, size_t blocks, const float* ahead, const float* ahead_too,
                          BlockFit* fits) {
  FitSums sums[kRunBlocks];
  float squares[kRunBlocks];
  for (size_t j = 0; j < blocks; ++j)
    squares[j] = CentredSums(params, quantity + j * params.block, norms[j].inverse, ahead + j * params.block, sums[j]);
  for (size_t j = 0; j < blocks; ++j)
    fits[j].mid_rise_inverse = mid_rise_inverse(params.bits, squares[j], static_cast<float>(params.block));
  for (size_t j = 0; j < blocks; ++j)
    MidRiseSums(params, quantity + j * params.block, norms[j].inverse, fits[j].mid_rise_inverse,
                ahead_too + j * params.block, sums[j]);
  for (size_t j = 0; j < blocks; ++j)
    if (magnitudes[j] >= tiny_bits(params)) fits[j].choice = choose_fit(params, magnitudes[j], norms[j].unit, sums[j]);
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
