// The random numbers of a tile: what is compiled once per target, and run-time dispatch.
#include "kernels/philox_tile.h"

#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/philox_tile.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/philox_tile-inl.h"

#if HWY_ONCE
namespace tsq::kernels {

HWY_EXPORT(DithersAtMost);
HWY_EXPORT(PhiloxOfTile);

void dithers_at_most(const PhiloxTile& words, const uint32_t* bars, uint64_t* out) {
  HWY_DYNAMIC_DISPATCH(DithersAtMost)(words, bars, out);
}

void philox_tile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out) {
  HWY_DYNAMIC_DISPATCH(PhiloxOfTile)(key, tile, domain, out);
}

}  // namespace tsq::kernels
#endif  // HWY_ONCE
