// The words of a full tile (256 elements, 8 rows of 32 lanes): 8 codes per lane, `bits` bytes. Included once per
// target. In registers a word is two "quads": rows 0-3 and rows 4-7, 4 * bits bits each, so that 32-bit lanes hold any
// number of bits.
#if defined(TSQ_KERNELS_CPU_WORDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_WORDS_INL_H_
#undef TSQ_KERNELS_CPU_WORDS_INL_H_
#else
#define TSQ_KERNELS_CPU_WORDS_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/block.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// kBits = 0 in the templates below means: known at run time only.
template <int kBits, class V>
HWY_INLINE V ShiftLeftBits(V v, int bits) {
  if constexpr (kBits != 0) return hn::ShiftLeft<kBits>(v);
  return hn::ShiftLeftSame(v, bits);
}

template <int kBits, class V>
HWY_INLINE V ShiftRightBits(V v, int bits) {
  if constexpr (kBits != 0) return hn::ShiftRight<kBits>(v);
  return hn::ShiftRightSame(v, bits);
}

// order[bits]: which bytes of 16 hold words of `bits` bytes, padded to 4 or 8; 0 behind them.
struct SqueezeOrder {
  alignas(16) uint8_t order[8][16];
  constexpr SqueezeOrder() : order() {
    for (int bits = 3; bits < 8; ++bits) {
      const int padded = bits <= 4 ? 4 : 8;
      for (int i = 0; i < 16 / padded * bits; ++i) order[bits][i] = static_cast<uint8_t>(i / bits * padded + i % bits);
    }
  }
};
inline constexpr SqueezeOrder kSqueeze{};

// Writes one tile; Store() for each vector of lanes in ascending order, then Finish().
class TileWriter {
 public:
  HWY_INLINE TileWriter(int bits, uint8_t* out) : bits_(bits), out_(out) {}

  template <class D32, class V = hn::Vec<D32>>
  HWY_INLINE void Store(D32 d, size_t lane, V low, V high) {
    const hn::RebindToSigned<D32> di;
    const hn::Repartition<uint8_t, D32> d8;
    switch (bits_) {
      case 1: {
        const auto word = hn::BitCast(di, hn::Or(low, hn::ShiftLeft<4>(high)));
        hn::StoreU(hn::DemoteTo(hn::Rebind<uint8_t, D32>(), word), hn::Rebind<uint8_t, D32>(), out_ + lane);
        break;
      }
      case 2: {
        const hn::Rebind<uint16_t, D32> d16;
        const auto word = hn::BitCast(di, hn::Or(low, hn::ShiftLeft<8>(high)));
        const hn::Repartition<uint8_t, decltype(d16)> d16_bytes;
        hn::StoreU(hn::BitCast(d16_bytes, hn::DemoteTo(d16, word)), d16_bytes, out_ + 2 * lane);
        break;
      }
      case 4:
        hn::StoreU(hn::BitCast(d8, hn::Or(low, hn::ShiftLeft<16>(high))), d8, out_ + 4 * lane);
        break;
      case 8:
        hn::StoreInterleaved2(low, high, d, reinterpret_cast<uint32_t*>(out_ + 8 * lane));
        break;
      case 3:
        hn::Store(hn::Or(low, hn::ShiftLeft<12>(high)), d, words_ + lane);
        break;
      default:
        hn::StoreInterleaved2(hn::Or(low, hn::ShiftLeftSame(high, 4 * bits_)), hn::ShiftRightSame(high, 32 - 4 * bits_),
                              d, words_ + 2 * lane);
    }
  }

  // Words of 3, 5, 6 or 7 bytes lie in 4 or 8: squeezes the gaps out, 16 bytes at a time.
  HWY_INLINE void Finish() {
    if ((bits_ & (bits_ - 1)) == 0) return;
    const hn::FixedTag<uint8_t, 16> d;
    const size_t bytes = static_cast<size_t>(bits_), padded = bits_ == 3 ? 4 : 8;
    const size_t squeezed = 16 / padded * bytes, vectors = kLanes * padded / 16;
    const auto order = hn::Load(d, kSqueeze.order[bits_]);
    const uint8_t* words = reinterpret_cast<const uint8_t*>(words_);
    for (size_t i = 0; i + 1 < vectors; ++i) {  // each writes 16 bytes, of which the next overwrites the rest
      hn::StoreU(hn::TableLookupBytes(hn::Load(d, words + 16 * i), order), d, out_ + squeezed * i);
    }
    HWY_ALIGN uint8_t last[16];
    hn::Store(hn::TableLookupBytes(hn::Load(d, words + 16 * (vectors - 1)), order), d, last);
    std::memcpy(out_ + squeezed * (vectors - 1), last, squeezed);
  }

 private:
  const int bits_;
  uint8_t* const out_;
  alignas(64) uint32_t words_[2 * kLanes];
};

template <class V>
struct Quads {
  HWY_INLINE Quads() {}  // see PhiloxWords
  HWY_INLINE Quads(V low_quad, V high_quad) : low(low_quad), high(high_quad) {}
  V low, high;  // bits above 4 * bits are undefined in both
};

// Reads one tile; Prepare() once, then Load() for any vector of lanes.
template <int kBits>
class TileReader {
 public:
  HWY_INLINE void Prepare(int bits, const uint8_t* in) {
    bits_ = bits;
    in_ = in;
    if constexpr (kBits == 0) {
      const size_t bytes = static_cast<size_t>(bits), tile_bytes = kLanes * bytes;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const size_t begin = lane * bytes, from = HWY_MIN(begin, tile_bytes - 8);  // never past the tile's end
        uint64_t word;
        std::memcpy(&word, in + from, 8);
        word >>= 8 * (begin - from);
        low_[lane] = static_cast<uint32_t>(word);
        high_[lane] = static_cast<uint32_t>(word >> (4 * bits));
      }
    }
  }

  template <class D32>
  HWY_INLINE Quads<hn::Vec<D32>> Load(D32 d, size_t lane) const {
    if constexpr (kBits == 1) {
      const hn::Rebind<uint8_t, D32> d8;
      const auto word = hn::PromoteTo(d, hn::LoadU(d8, in_ + lane));
      return {word, hn::ShiftRight<4>(word)};
    } else if constexpr (kBits == 2) {
      const hn::Rebind<uint16_t, D32> d16;
      const hn::Repartition<uint8_t, decltype(d16)> d16_bytes;
      const auto word = hn::PromoteTo(d, hn::BitCast(d16, hn::LoadU(d16_bytes, in_ + 2 * lane)));
      return {word, hn::ShiftRight<8>(word)};
    } else if constexpr (kBits == 4) {
      const hn::Repartition<uint8_t, D32> d8;
      const auto word = hn::BitCast(d, hn::LoadU(d8, in_ + 4 * lane));
      return {word, hn::ShiftRight<16>(word)};
    } else if constexpr (kBits == 8) {
      Quads<hn::Vec<D32>> quads;
      hn::LoadInterleaved2(d, reinterpret_cast<const uint32_t*>(in_ + 8 * lane), quads.low, quads.high);
      return quads;
    } else {
      return {hn::Load(d, low_ + lane), hn::Load(d, high_ + lane)};
    }
  }

  int bits() const { return kBits != 0 ? kBits : bits_; }

 private:
  int bits_;
  const uint8_t* in_;
  HWY_ALIGN uint32_t low_[kBits == 0 ? kLanes : 1];
  HWY_ALIGN uint32_t high_[kBits == 0 ? kLanes : 1];
};

// Calls visit(row, code) for the four rows of a quad, whose first row is `row`.
template <int kBits, class D32, class V, class Visit>
HWY_INLINE void VisitCodes(D32 d, V quad, int bits, size_t row, const Visit& visit) {
  const auto mask = hn::Set(d, (1u << (kBits != 0 ? kBits : bits)) - 1u);
  visit(row, hn::And(quad, mask));
  quad = ShiftRightBits<kBits>(quad, bits);
  visit(row + 1, hn::And(quad, mask));
  quad = ShiftRightBits<kBits>(quad, bits);
  visit(row + 2, hn::And(quad, mask));
  quad = ShiftRightBits<kBits>(quad, bits);
  visit(row + 3, hn::And(quad, mask));
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
