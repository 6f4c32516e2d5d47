// Copies that write past the cache. Included once per target.
#if defined(TSQ_KERNELS_CPU_COPY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_COPY_INL_H_
#undef TSQ_KERNELS_CPU_COPY_INL_H_
#else
#define TSQ_KERNELS_CPU_COPY_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/copy.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {

void CopyPastCache(void* to, const void* from, size_t bytes) {
#if TSQ_HWY_VECTORS
  namespace hn = hwy::HWY_NAMESPACE;
  constexpr size_t kLine = 64;
  const hn::CappedTag<uint8_t, kLine> d;
  const size_t N = hn::Lanes(d);
  auto* out = static_cast<uint8_t*>(to);
  auto* in = static_cast<const uint8_t*>(from);
  // Whole lines of the destination only: a part of one would be written to memory by itself.
  const size_t before = HWY_MIN(bytes, (kLine - reinterpret_cast<uintptr_t>(out) % kLine) % kLine);
  const size_t lines = (bytes - before) / kLine;
  std::memcpy(out, in, before);
  out += before, in += before;
  for (size_t line = 0; line < lines; ++line, out += kLine, in += kLine)
    for (size_t i = 0; i < kLine; i += N) hn::Stream(hn::LoadU(d, in + i), d, out + i);
  std::memcpy(out, in, bytes - before - lines * kLine);
  hwy::FlushStream();
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
