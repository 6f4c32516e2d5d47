// Top-k's sweep. Included once per target.
#if defined(TSQ_KERNELS_CPU_TOPK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_TOPK_INL_H_
#undef TSQ_KERNELS_CPU_TOPK_INL_H_
#else
#define TSQ_KERNELS_CPU_TOPK_INL_H_
#endif

#include <algorithm>

#include "common/half.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/topk.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
#if TSQ_HWY_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
// The numbers of the set bits of a byte, ascending.
struct LanesOfBits {
  alignas(64) uint8_t lanes[256][8] = {};
  constexpr LanesOfBits() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, n = 0; lane < 8; ++lane)
        if (bits >> lane & 1) lanes[bits][n++] = static_cast<uint8_t>(lane);
  }
};
constexpr LanesOfBits kLanesOfBits;
#endif

constexpr size_t kTopKPrefetch = 512;  // elements ahead: 2 KiB of x and of the state

// Appends the lanes of v under `large` to value, and base plus their numbers to index; returns how many they are.
// Writes a whole vector.
template <class D, class V, class M>
HWY_INLINE size_t Append(D d, V v, M large, uint32_t base, uint32_t* HWY_RESTRICT index, float* HWY_RESTRICT value) {
  const hn::RebindToUnsigned<decltype(d)> du;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  // Not hn::Compress: on AVX2, Highway 1.0.3's copies its table to the stack in every call (g++ 12), and AVX-512's
  // instruction was slower than this table on the one CPU at hand (Zen 4: 0.50 against 0.30 ns/element at 1 %).
  const hn::Rebind<uint8_t, decltype(d)> bytes;
  uint8_t bits[8] = {0};
  hn::StoreMaskBits(d, large, bits);
  const auto lanes = hn::PromoteTo(du, hn::LoadU(bytes, kLanesOfBits.lanes[bits[0]]));
  hn::StoreU(hn::TableLookupLanes(v, hn::IndicesFromVec(d, lanes)), d, value);
  hn::StoreU(hn::Add(lanes, hn::Set(du, base)), du, index);
  return static_cast<size_t>(__builtin_popcount(bits[0]));
#else
  hn::StoreU(hn::Compress(v, large), d, value);
  hn::StoreU(hn::Compress(hn::Iota(du, base), hn::RebindMask(du, large)), du, index);
  return hn::CountTrue(d, large);
#endif
}

// Four vectors at a time of float32: `x` and `state` are at element `base`. Stops before a group of four with an
// element that is not finite, or with fewer than four vectors left. Returns the number of elements done.
template <Form kForm>
HWY_INLINE size_t SweepGroups(const float* HWY_RESTRICT x, float* HWY_RESTRICT state, size_t n, uint32_t base,
                              uint32_t floor, uint32_t* HWY_RESTRICT index, float* HWY_RESTRICT value, size_t* count) {
  const hn::CappedTag<float, 8> d;  // the table has eight lanes
  const hn::RebindToSigned<decltype(d)> di;
  const size_t N = hn::Lanes(d);
  const auto below = hn::Set(di, static_cast<int32_t>(floor) - 1), largest = hn::Set(di, 0x7F7FFFFF);
  const auto no_sign = hn::Set(di, 0x7FFFFFFF);
  const auto load = [&](size_t i) HWY_ATTR {
    const auto element = hn::LoadU(d, x + i);
    if constexpr (kForm == Form::kResidual) return hn::Add(hn::LoadU(d, state + i), element);
    if constexpr (kForm == Form::kShifted) return hn::Sub(element, hn::LoadU(d, state + i));
    return element;
  };
  const auto key = [&](auto v) HWY_ATTR { return hn::And(hn::BitCast(di, v), no_sign); };
  size_t found = *count, i = 0;
  for (; n - i >= 4 * N; i += 4 * N) {
    for (size_t line = 0; line < 4 * N; line += 16) {
      hwy::Prefetch(x + i + line + kTopKPrefetch);
      if constexpr (kForm != Form::kPlain) hwy::Prefetch(state + i + line + kTopKPrefetch);
    }
    const auto v0 = load(i), v1 = load(i + N), v2 = load(i + 2 * N), v3 = load(i + 3 * N);
    const auto k0 = key(v0), k1 = key(v1), k2 = key(v2), k3 = key(v3);
    const auto top = hn::Max(hn::Max(k0, k1), hn::Max(k2, k3));
    if (HWY_UNLIKELY(!hn::AllFalse(di, hn::Gt(top, largest)))) break;
    if constexpr (kForm == Form::kResidual) {
      hn::StoreU(v0, d, state + i);
      hn::StoreU(v1, d, state + i + N);
      hn::StoreU(v2, d, state + i + 2 * N);
      hn::StoreU(v3, d, state + i + 3 * N);
    }
    if (hn::AllFalse(di, hn::Gt(top, below))) continue;
    const auto append = [&](auto v, auto k, size_t at) HWY_ATTR {
      const auto large = hn::RebindMask(d, hn::Gt(k, below));
      found += Append(d, v, large, base + static_cast<uint32_t>(at), index + found, value + found);
    };
    append(v0, k0, i);
    append(v1, k1, i + N);
    append(v2, k2, i + 2 * N);
    append(v3, k3, i + 3 * N);
  }
  *count = found;
  return i;
}

HWY_INLINE size_t SweepFloats(Form form, const float* x, float* state, size_t n, uint32_t base, uint32_t floor,
                              uint32_t* index, float* value, size_t* count) {
  switch (form) {
    case Form::kResidual:
      return SweepGroups<Form::kResidual>(x, state, n, base, floor, index, value, count);
    case Form::kShifted:
      return SweepGroups<Form::kShifted>(x, state, n, base, floor, index, value, count);
    case Form::kPlain:
      break;
  }
  return SweepGroups<Form::kPlain>(x, state, n, base, floor, index, value, count);
}

// 16-bit elements through L1.
template <class T>
HWY_INLINE size_t SweepHalves(Form form, const T* x, float* state, size_t n, uint32_t base, uint32_t floor,
                              uint32_t* index, float* value, size_t* count) {
  constexpr size_t kPart = 1024;
  HWY_ALIGN float wide[kPart + kTopKPrefetch];  // the prefetches stay inside
  size_t done = 0;
  while (done < n) {
    const size_t part = std::min(kPart, n - done);
    for (size_t i = 0; i < part; ++i) wide[i] = to_float(x[done + i]);
    float* const here = form == Form::kPlain ? nullptr : state + done;
    const size_t got =
        SweepFloats(form, wide, here, part, base + static_cast<uint32_t>(done), floor, index, value, count);
    done += got;
    if (got < part) break;
  }
  return done;
}
#endif  // TSQ_HWY_VECTORS

// What the vectors leave (a tail, a group with an element that is not finite, float64) is the oracle's.
size_t TopKSweep(Form form, ConstView x, void* state, size_t begin, size_t end, uint64_t floor, uint32_t* index,
                 void* value, size_t* count) {
#if TSQ_HWY_VECTORS
  const size_t n = end - begin;
  const auto base = static_cast<uint32_t>(begin), bar = static_cast<uint32_t>(floor);
  const bool floats = form != Form::kPlain && x.dtype != DType::kFloat64;
  float* const at = floats ? static_cast<float*>(state) + begin : nullptr;
  if (x.dtype == DType::kFloat32)
    begin += SweepFloats(form, x.as<float>() + begin, at, n, base, bar, index, static_cast<float*>(value), count);
  else if (x.dtype == DType::kFloat16)
    begin += SweepHalves(form, x.as<Half>() + begin, at, n, base, bar, index, static_cast<float*>(value), count);
  else if (x.dtype == DType::kBFloat16)
    begin += SweepHalves(form, x.as<BFloat16>() + begin, at, n, base, bar, index, static_cast<float*>(value), count);
#endif
  return scalar::topk_sweep(form, x, state, begin, end, floor, index, value, count);
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
