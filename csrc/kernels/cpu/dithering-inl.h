// Dithering of full tiles. Included once per target.
#if defined(TSQ_KERNELS_CPU_DITHERING_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_DITHERING_INL_H_
#undef TSQ_KERNELS_CPU_DITHERING_INL_H_
#else
#define TSQ_KERNELS_CPU_DITHERING_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/block.h"
#include "kernels/cpu/philox-inl.h"
#include "kernels/dithering.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
#if TSQ_HWY_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

double SquareSum(const float* z, size_t m) {
  if (m % kLanes != 0) return scalar::square_sum(z, m);
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t N = hn::Lanes(d);
  HWY_ALIGN double lanes[kLanes];
  for (size_t lane = 0; lane < kLanes; lane += N) {
    auto sum = hn::Zero(d);
    for (size_t j = lane; j < m; j += kLanes) {
      const auto v = hn::PromoteTo(d, hn::LoadU(df, z + j));
      sum = hn::Add(sum, hn::Mul(v, v));
    }
    hn::Store(sum, d, lanes + lane);
  }
  size_t width = kLanes / 2;
  for (; width >= N; width /= 2) {
    for (size_t lane = 0; lane < width; lane += N)
      hn::Store(hn::Add(hn::Load(d, lanes + lane), hn::Load(d, lanes + lane + width)), d, lanes + lane);
  }
  for (; width > 0; width /= 2) {
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

uint32_t LargestMagnitude(const float* z, size_t m) {
  const hn::CappedTag<uint32_t, 16> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t N = hn::Lanes(d);
  auto largest = hn::Zero(d);
  size_t i = 0;
  for (; m - i >= N; i += N)
    largest = hn::Max(largest, hn::And(hn::BitCast(d, hn::LoadU(df, z + i)), hn::Set(d, ~kSignBit)));
  return HWY_MAX(hn::GetLane(hn::MaxOfLanes(d, largest)), scalar::largest_magnitude(z + i, m - i));
}

// `dither`: r << 7 and left-overs in other bits.
template <class D, class V, class VU>
HWY_INLINE auto UniformLevel(D d, V t, VU dither, int s) {
  const hn::RebindToUnsigned<D> du;
  const auto u =
      hn::Sub(hn::BitCast(d, hn::OrAnd(hn::Set(du, 0x3F800040u), dither, hn::Set(du, 0xFFFFu << 7))), hn::Set(d, 1.5f));
  const auto rounder = hn::Set(d, kRounder), top = hn::Set(d, static_cast<float>(s));
  const auto rounded = hn::Sub(hn::Add(hn::Add(t, u), rounder), rounder);
  return hn::ConvertTo(hn::RebindToSigned<D>(), hn::Min(hn::Max(rounded, hn::Neg(top)), top));
}

template <class D, class V, class VU>
HWY_INLINE auto PowerLevel(D d, V t, VU dither, int s) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto r = hn::And(dither, hn::Set(du, 0xFFFFu << 7));
  const auto no_sign = hn::Set(du, ~kSignBit);
  const auto magnitude = hn::And(hn::BitCast(du, t), no_sign);
  const auto probability = hn::BitCast(d, magnitude), one = hn::Set(d, 1.0f);
  const auto uniform = hn::Sub(hn::BitCast(d, hn::Or(r, hn::Set(du, 0x3F800040u))), one);
  const auto below =
      hn::And(hn::VecFromMask(di, hn::RebindMask(di, hn::Ge(hn::Add(probability, uniform), one))), hn::Set(di, 1));
  const auto exponent = hn::ShiftRight<23>(hn::Add(magnitude, hn::Or(r, hn::Set(du, 64u))));
  const auto level = hn::Sub(hn::BitCast(di, exponent), hn::Set(di, 126));
  const auto is_below = hn::RebindMask(di, hn::Lt(probability, one));
  const auto c = hn::Min(hn::IfThenElse(is_below, below, level), hn::Set(di, s));
  const auto sign = hn::BroadcastSignBit(hn::BitCast(di, t));  // all ones where negative
  return hn::Sub(hn::Xor(c, sign), sign);
}

template <Grid kGrid>
HWY_INLINE void DitherTile(int s, const float* HWY_RESTRICT inverse, const float* HWY_RESTRICT z, PhiloxKey key,
                           uint64_t offset, int16_t* HWY_RESTRICT levels) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<int16_t, decltype(d)> d16;
  ForEachDither(du, offset, key, [&](size_t row, size_t lane, auto dither) HWY_ATTR {
    const size_t i = row * kLanes + lane;
    const auto t = hn::Mul(hn::LoadU(d, z + i), hn::Set(d, inverse[row]));
    const auto level = kGrid == Grid::kUniform ? UniformLevel(d, t, dither, s) : PowerLevel(d, t, dither, s);
    hn::StoreU(hn::DemoteTo(d16, level), d16, levels + i);
  });
}

void DitherLevels(Grid grid, int s, const float* inverse, const float* z, PhiloxKey key, uint64_t offset,
                  int16_t* levels) {
  if (grid == Grid::kUniform) return DitherTile<Grid::kUniform>(s, inverse, z, key, offset, levels);
  DitherTile<Grid::kPowers>(s, inverse, z, key, offset, levels);
}

#else  // a target without vectors: the oracle

double SquareSum(const float* z, size_t m) { return scalar::square_sum(z, m); }

uint32_t LargestMagnitude(const float* z, size_t m) { return scalar::largest_magnitude(z, m); }

void DitherLevels(Grid grid, int s, const float* inverse, const float* z, PhiloxKey key, uint64_t offset,
                  int16_t* levels) {
  scalar::dither_levels(grid, s, inverse, z, key, offset, levels);
}

#endif  // TSQ_HWY_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
