// The oracle.
#include "kernels/philox_tile.h"

namespace tsq::kernels::scalar {

void philox_tile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out) {
  for (size_t lane = 0; lane < PhiloxTile::kLanes; ++lane) {
    const uint64_t counter = tile * PhiloxTile::kLanes + lane;
    const auto words =
        philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), domain, 0}, key);
    for (size_t w = 0; w < 4; ++w) out->words[w][lane] = words[w];
  }
}

}  // namespace tsq::kernels::scalar
