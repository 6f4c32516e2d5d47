// Sums in a fixed order. Included once per target.
#if defined(TSQ_KERNELS_CPU_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_SUMS_INL_H_
#undef TSQ_KERNELS_CPU_SUMS_INL_H_
#else
#define TSQ_KERNELS_CPU_SUMS_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/block.h"
#include "kernels/sums.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
#if TSQ_HWY_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kInCache = 4096;  // elements that stay in L1 from one lane to the next

// Adds term(vector of doubles), a pair of vectors, to the lanes of two sums for all elements of full rows.
template <class Term>
HWY_INLINE void AddRows(const float* HWY_RESTRICT x, size_t n, const Term& term, double* HWY_RESTRICT first,
                        double* HWY_RESTRICT second) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t N = hn::Lanes(d);
  for (size_t begin = 0; begin < n; begin += kInCache) {
    const size_t end = HWY_MIN(n, begin + kInCache);
    for (size_t lane = 0; lane < kLanes; lane += 2 * N) {
      auto first0 = hn::Load(d, first + lane), first1 = hn::Load(d, first + lane + N);
      auto second0 = hn::Load(d, second + lane), second1 = hn::Load(d, second + lane + N);
      for (size_t i = begin + lane; i < end; i += kLanes) {
        term(d, hn::Abs(hn::PromoteTo(d, hn::LoadU(df, x + i))), first0, second0);
        term(d, hn::Abs(hn::PromoteTo(d, hn::LoadU(df, x + i + N))), first1, second1);
      }
      hn::Store(first0, d, first + lane);
      hn::Store(first1, d, first + lane + N);
      hn::Store(second0, d, second + lane);
      hn::Store(second1, d, second + lane + N);
    }
  }
}

// The total of lanes to which f(the elements behind the last full row) has been added.
template <class F>
HWY_INLINE double SumOfLanes(double* lanes, size_t rest, const F& f) {
  for (size_t l = 0; l < rest; ++l) lanes[l] += f(l);
  for (size_t w = kLanes / 2; w > 0; w /= 2)
    for (size_t l = 0; l < w; ++l) lanes[l] += lanes[l + w];
  return lanes[0];
}

SumBelow SumsBelow(const float* x, size_t n, double bar) {
  HWY_ALIGN double sums[kLanes] = {}, counts[kLanes] = {};
  const size_t full = n / kLanes * kLanes;
  AddRows(
      x, full,
      [&](auto d, auto magnitude, auto& sum, auto& count) HWY_ATTR {
        const auto below = hn::Lt(magnitude, hn::Set(d, bar));
        sum = hn::Add(sum, hn::IfThenElseZero(below, magnitude));
        count = hn::Add(count, hn::IfThenZeroElse(below, hn::Set(d, 1.0)));
      },
      sums, counts);
  const auto at = [&](size_t l) { return std::abs(static_cast<double>(x[full + l])); };
  return {.sum = SumOfLanes(sums, n - full, [&](size_t l) { return at(l) < bar ? at(l) : 0.0; }),
          .reached =
              static_cast<uint64_t>(SumOfLanes(counts, n - full, [&](size_t l) { return at(l) < bar ? 0.0 : 1.0; }))};
}

Moments MomentsOf(const float* x, size_t n, double factor) {
  HWY_ALIGN double squares[kLanes] = {}, others[kLanes] = {};
  const size_t full = n / kLanes * kLanes;
  AddRows(
      x, full,
      [&](auto d, auto magnitude, auto& square, auto& other) HWY_ATTR {
        const auto y = hn::Mul(magnitude, hn::Set(d, factor)), one = hn::Set(d, 1.0);
        square = hn::Add(square, hn::Mul(y, y));
        other = hn::Add(other, hn::Mul(y, hn::IfThenElse(hn::Gt(y, one), y, one)));
      },
      squares, others);
  const auto y = [&](size_t l) { return std::abs(static_cast<double>(x[full + l])) * factor; };
  return {.squares = SumOfLanes(squares, n - full, [&](size_t l) { return y(l) * y(l); }),
          .at_least = SumOfLanes(others, n - full, [&](size_t l) { return y(l) * (y(l) > 1.0 ? y(l) : 1.0); })};
}

void AddSquareDistances(const float* HWY_RESTRICT x, const float* HWY_RESTRICT h, size_t n, float* HWY_RESTRICT lanes) {
  const hn::CappedTag<float, 16> d;
  const size_t N = hn::Lanes(d);
  for (size_t lane = 0; lane < kLanes; lane += 2 * N) {
    auto sum0 = hn::LoadU(d, lanes + lane), sum1 = hn::LoadU(d, lanes + lane + N);
    for (size_t i = lane; i < n; i += kLanes) {
      const auto difference0 = hn::Sub(hn::LoadU(d, x + i), hn::LoadU(d, h + i));
      const auto difference1 = hn::Sub(hn::LoadU(d, x + i + N), hn::LoadU(d, h + i + N));
      sum0 = hn::Add(sum0, hn::Mul(difference0, difference0));
      sum1 = hn::Add(sum1, hn::Mul(difference1, difference1));
    }
    hn::StoreU(sum0, d, lanes + lane);
    hn::StoreU(sum1, d, lanes + lane + N);
  }
}

uint32_t AddSquareDistancesOfTwo(const float* HWY_RESTRICT x, const float* HWY_RESTRICT h, const float* HWY_RESTRICT y,
                                 size_t n, float* HWY_RESTRICT to_h, float* HWY_RESTRICT to_y) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const size_t N = hn::Lanes(d);
  auto largest0 = hn::Zero(du), largest1 = hn::Zero(du);
  for (size_t lane = 0; lane < kLanes; lane += 2 * N) {
    auto h0 = hn::LoadU(d, to_h + lane), h1 = hn::LoadU(d, to_h + lane + N);
    auto y0 = hn::LoadU(d, to_y + lane), y1 = hn::LoadU(d, to_y + lane + N);
    const auto take = [&](size_t i, auto& sum_h, auto& sum_y, auto& largest) HWY_ATTR {
      const auto v = hn::LoadU(d, x + i);
      const auto from_h = hn::Sub(v, hn::LoadU(d, h + i)), from_y = hn::Sub(v, hn::LoadU(d, y + i));
      sum_h = hn::Add(sum_h, hn::Mul(from_h, from_h));
      sum_y = hn::Add(sum_y, hn::Mul(from_y, from_y));
      largest = hn::Max(largest, hn::BitCast(du, hn::Abs(v)));
    };
    for (size_t i = lane; i < n; i += kLanes) {
      take(i, h0, y0, largest0);
      take(i + N, h1, y1, largest1);
    }
    hn::StoreU(h0, d, to_h + lane);
    hn::StoreU(h1, d, to_h + lane + N);
    hn::StoreU(y0, d, to_y + lane);
    hn::StoreU(y1, d, to_y + lane + N);
  }
  return hn::GetLane(hn::MaxOfLanes(du, hn::Max(largest0, largest1)));
}

#else  // a target without vectors: the oracle

SumBelow SumsBelow(const float* x, size_t n, double bar) { return scalar::sum_below(x, n, bar); }
Moments MomentsOf(const float* x, size_t n, double factor) { return scalar::moments(x, n, factor); }
void AddSquareDistances(const float* x, const float* h, size_t n, float* lanes) {
  scalar::add_square_distances(x, h, n, lanes);
}
uint32_t AddSquareDistancesOfTwo(const float* x, const float* h, const float* y, size_t n, float* to_h, float* to_y) {
  return scalar::add_square_distances(x, h, y, n, to_h, to_y);
}

#endif  // TSQ_HWY_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
