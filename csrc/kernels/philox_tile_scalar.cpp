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

void dithers_at_most(const PhiloxTile& words, const uint32_t* bars, uint64_t* out) {
  for (size_t i = 0; i < PhiloxTile::kElements; ++i) {
    if (i % 64 == 0) out[i / 64] = 0;
    out[i / 64] |= uint64_t{words.dither(i) <= bars[i]} << i % 64;
  }
}

}  // namespace tsq::kernels::scalar
