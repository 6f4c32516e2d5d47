// Searches for an element that is not finite, or not zero. Included once per target.
#if defined(TSQ_KERNELS_CPU_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_SCAN_INL_H_
#undef TSQ_KERNELS_CPU_SCAN_INL_H_
#else
#define TSQ_KERNELS_CPU_SCAN_INL_H_
#endif

#include "hwy/cache_control.h"
#include "hwy/highway.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kScanChunk = 8192;  // bytes between two tests for an early exit

// Elements at the front of `in`, a multiple of the chunk, of which all have (bits without sign) + addend below the sign
// bit. Returns the number of elements seen, and in *found whether one of them failed.
template <class T>
HWY_INLINE size_t FindCarry(const T* HWY_RESTRICT in, size_t n, T addend, bool* found) {
  const hn::ScalableTag<T> d;
  const size_t N = hn::Lanes(d), chunk = kScanChunk / sizeof(T);
  constexpr T kSign = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
  const auto sign = hn::Set(d, kSign), no_sign = hn::Set(d, static_cast<T>(~kSign)), add = hn::Set(d, addend);
  const auto test = [&](const T* p) HWY_ATTR { return hn::Add(hn::And(hn::LoadU(d, p), no_sign), add); };
  size_t i = 0;
  for (*found = false; !*found && n - i >= chunk; i += chunk) {
    auto any0 = hn::Zero(d), any1 = hn::Zero(d);
    for (size_t j = i; j < i + chunk; j += 2 * N) {
      any0 = hn::Or(any0, test(in + j));
      any1 = hn::Or(any1, test(in + j + N));
    }
    *found = !hn::AllTrue(d, hn::Eq(hn::And(hn::Or(any0, any1), sign), hn::Zero(d)));
  }
  return i;
}

// Same for elements with a bit set besides the sign: adding the largest positive number carries for all but zero.
template <class T>
HWY_INLINE size_t FindNonZero(const T* in, size_t n, bool* found) {
  return FindCarry<T>(in, n, static_cast<T>(static_cast<T>(~T{0}) >> 1), found);
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
