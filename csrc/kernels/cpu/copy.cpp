// Copies past the cache: what is compiled once per target, and run-time dispatch.
#include "kernels/copy.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/copy.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/copy-inl.h"

#if HWY_ONCE
namespace tsq::kernels {

HWY_EXPORT(CopyPastCache);

void copy_past_cache(void* to, const void* from, size_t bytes) {
  if (bytes > 0) HWY_DYNAMIC_DISPATCH(CopyPastCache)(to, from, bytes);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
