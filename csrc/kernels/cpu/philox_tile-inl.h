// The random numbers of a tile. Included once per target.
#if defined(TSQ_KERNELS_CPU_PHILOX_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_PHILOX_TILE_INL_H_
#undef TSQ_KERNELS_CPU_PHILOX_TILE_INL_H_
#else
#define TSQ_KERNELS_CPU_PHILOX_TILE_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/philox-inl.h"
#include "kernels/philox_tile.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {

#if TSQ_HWY_VECTORS
void PhiloxOfTile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* HWY_RESTRICT out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::CappedTag<uint32_t, PhiloxTile::kLanes> d;
  constexpr size_t kAtOnce = PhiloxVectors();
  PhiloxWords<hn::Vec<decltype(d)>> words[kAtOnce];
  for (size_t lane = 0; lane < PhiloxTile::kLanes; lane += kAtOnce * hn::Lanes(d)) {
    Philox<kAtOnce>(d, tile * PhiloxTile::kLanes, lane, key, words, domain);
    for (size_t i = 0; i < kAtOnce; ++i) {
      const size_t at = lane + i * hn::Lanes(d);
      hn::Store(words[i].w0, d, out->words[0] + at);
      hn::Store(words[i].w1, d, out->words[1] + at);
      hn::Store(words[i].w2, d, out->words[2] + at);
      hn::Store(words[i].w3, d, out->words[3] + at);
    }
  }
}

void DithersAtMost(const PhiloxTile& words, const uint32_t* HWY_RESTRICT bars, uint64_t* out) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::CappedTag<uint32_t, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t N = hn::Lanes(d);
  auto* const bits = reinterpret_cast<uint8_t*>(out);
  constexpr size_t kLanes = PhiloxTile::kLanes;
  uint32_t rows[PhiloxTile::kElements / kLanes];
  for (size_t row = 0; row < PhiloxTile::kElements / kLanes; ++row) {
    rows[row] = 0;
    for (size_t lane = 0; lane < kLanes; lane += N) {
      const auto word = hn::Load(d, words.words[row / 2] + lane);
      const auto dither = row % 2 == 0 ? hn::And(word, hn::Set(d, 0xFFFFu)) : hn::ShiftRight<16>(word);
      const auto bar = hn::BitCast(di, hn::LoadU(d, bars + row * kLanes + lane));
      uint8_t above[8] = {};
      hn::StoreMaskBits(di, hn::Gt(hn::BitCast(di, dither), bar), above);
      rows[row] |= ((above[0] | static_cast<uint32_t>(above[1]) << 8) & ((1u << N) - 1)) << lane;
    }
    rows[row] = ~rows[row];
  }
  std::memcpy(bits, rows, sizeof rows);
}
#else
void DithersAtMost(const PhiloxTile& words, const uint32_t* bars, uint64_t* out) {
  scalar::dithers_at_most(words, bars, out);
}
void PhiloxOfTile(PhiloxKey key, uint64_t tile, uint32_t domain, PhiloxTile* out) {
  scalar::philox_tile(key, tile, domain, out);
}
#endif  // TSQ_HWY_VECTORS

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
