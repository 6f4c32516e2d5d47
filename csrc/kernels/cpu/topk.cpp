// Top-k's sweep: what is compiled once per target, and run-time dispatch.
#include "kernels/topk.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/topk.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/topk-inl.h"

#if HWY_ONCE
namespace tsq::kernels {

HWY_EXPORT(TopKSweep);

size_t topk_sweep(Form form, ConstView x, void* state, size_t begin, size_t end, uint64_t floor, uint32_t* index,
                  void* value, size_t* count) {
  return HWY_DYNAMIC_DISPATCH(TopKSweep)(form, x, state, begin, end, floor, index, value, count);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
