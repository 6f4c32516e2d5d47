// Decoding and checking of full groups. Included once per target.
#if defined(TSQ_KERNELS_CPU_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_DECODE_INL_H_
#undef TSQ_KERNELS_CPU_DECODE_INL_H_
#else
#define TSQ_KERNELS_CPU_DECODE_INL_H_
#endif

#include <array>
#include <bit>

#include "hwy/highway.h"
#include "kernels/cpu/block.h"
#include "kernels/cpu/words-inl.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kMessagesAtOnce = 8;  // as many payloads are summed in registers; more would exhaust the CPU's streams

// Where the parts of a group are, the same for all groups of a payload.
struct GroupShape {
  explicit GroupShape(const QuantizerParams& params)
      : bits(params.bits),
        blocks(params.block < kTile ? kTile / params.block : 1),
        row_shift(blocks > 1 ? std::countr_zero(params.block) - 5 : 3),
        tiles(params.group() / kTile),
        head_bytes(params.scale_bytes() * blocks),
        tile_bytes(kLanes * static_cast<size_t>(params.bits)) {}

  const uint8_t* tile(const uint8_t* group, size_t i) const { return group + head_bytes + i * tile_bytes; }

  int bits;
  size_t blocks;  // number of scales
  int row_shift;  // log2(rows of a tile that share a scale)
  size_t tiles;
  size_t head_bytes;  // of the scales
  size_t tile_bytes;
};

// How codes become values: entry 0 if there is one block, else an entry per block.
struct GroupLevels {
  HWY_INLINE void Read(const QuantizerParams& params, const GroupShape& shape, const uint8_t* group) {
    for (size_t j = 0; j < shape.blocks; ++j) {
      const uint32_t bits = read_scale(params, group, j);
      mid_rise[j] = params.bits == 1 || (params.rounding == Rounding::kFit && (bits & kSignBit) != 0);
      slope[j] = mid_rise[j] ? 2.0f : 1.0f;
      offset[j] = static_cast<float>(level(params.bits, mid_rise[j] != 0, 0));
      scale[j] = std::bit_cast<float>(bits & ~kSignBit);
    }
  }
  uint32_t mid_rise[8];
  float slope[8], offset[8];  // level = code * slope + offset
  float scale[8];
};

// Levels of all codes, for targets whose vectors hold them all.
template <int kBits>
struct LevelTable {
  alignas(64) std::array<std::array<float, 16>, 2> levels;
  constexpr LevelTable() : levels() {
    for (int i = 0; i < 32; ++i)
      levels[i / 16][i % 16] = static_cast<float>(level(kBits, i >= 16, i % 16 % (1 << kBits)));
  }
};
template <int kBits>
inline constexpr LevelTable<kBits> kLevelTable{};

// Values of a vector of codes that use entry j of `levels`.
template <int kBits, class D, class V32>
HWY_INLINE hn::Vec<D> Values(D d, const GroupLevels& levels, size_t j, V32 codes) {
  const hn::RebindToSigned<D> di;
  const auto scale = hn::Set(d, levels.scale[j]);
  if constexpr (kBits != 0 && kBits <= 4 && (size_t{1} << kBits) <= hn::MaxLanes(D())) {
    const auto table = hn::Mul(hn::Load(d, kLevelTable<kBits>.levels[levels.mid_rise[j]].data()), scale);
    return hn::TableLookupLanes(table, hn::IndicesFromVec(d, codes));
  } else {
    const auto code = hn::ConvertTo(d, hn::BitCast(di, codes));
    const auto level = hn::Add(hn::Mul(code, hn::Set(d, levels.slope[j])), hn::Set(d, levels.offset[j]));
    return hn::Mul(level, scale);
  }
}

// Calls visit(row, values) for the eight rows of a vector of lanes.
template <int kBits, bool kUniform, class D, class Visit>
HWY_INLINE void VisitValues(D d, const TileReader<kBits>& reader, const GroupLevels& levels, int row_shift, size_t lane,
                            const Visit& visit) {
  const hn::RebindToUnsigned<D> du;
  const auto quads = reader.Load(du, lane);
  const auto decode = [&](size_t row, auto codes)
                          HWY_ATTR { visit(row, Values<kBits>(d, levels, kUniform ? 0 : row >> row_shift, codes)); };
  VisitCodes<kBits>(du, quads.low, reader.bits(), 0, decode);
  VisitCodes<kBits>(du, quads.high, reader.bits(), 4, decode);
}

// acc += scale * values of one group.
template <int kBits, bool kUniform>
void AddGroup(const QuantizerParams& params, const uint8_t* HWY_RESTRICT group, float scale, float* HWY_RESTRICT acc) {
  const hn::CappedTag<float, 16> d;
  const GroupShape shape(params);
  GroupLevels levels;
  levels.Read(params, shape, group);
  const auto factor = hn::Set(d, scale);
  TileReader<kBits> reader;
  for (size_t tile = 0; tile < shape.tiles; ++tile, acc += kTile) {
    reader.Prepare(shape.bits, shape.tile(group, tile));
    for (size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      VisitValues<kBits, kUniform>(d, reader, levels, shape.row_shift, lane, [&](size_t row, auto value) HWY_ATTR {
        float* HWY_RESTRICT to = acc + row * kLanes + lane;
        hn::StoreU(hn::Add(hn::LoadU(d, to), hn::Mul(value, factor)), d, to);
      });
    }
  }
}

// What MeanGroup does with a finished sum.
struct Divisor {
  explicit Divisor(size_t n) : count(static_cast<float>(n)), reciprocal(1.0f / count), exact((n & (n - 1)) == 0) {}
  float count;
  float reciprocal;
  bool exact;  // a power of two (or 0): multiplying by the reciprocal rounds as dividing does
};

// sums = (first ? 0 : sums) + values of one group of `count` <= kMessagesAtOnce messages; divided by `divisor` if
// given.
template <int kBits, bool kUniform>
void SumGroup(const QuantizerParams& params, const uint8_t* const* HWY_RESTRICT in, size_t group_begin, size_t count,
              bool first, const Divisor* divisor, float* HWY_RESTRICT sums) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const GroupShape shape(params);
  GroupLevels levels[kMessagesAtOnce];
  TileReader<kBits> readers[kMessagesAtOnce];
  for (size_t m = 0; m < count; ++m) levels[m].Read(params, shape, in[m] + group_begin);
  for (size_t tile = 0; tile < shape.tiles; ++tile, sums += kTile) {
    for (size_t m = 0; m < count; ++m) readers[m].Prepare(shape.bits, shape.tile(in[m] + group_begin, tile));
    for (size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      V sum[8];
      for (size_t row = 0; row < 8; ++row) sum[row] = first ? hn::Zero(d) : hn::LoadU(d, sums + row * kLanes + lane);
      for (size_t m = 0; m < count; ++m) {
        VisitValues<kBits, kUniform>(d, readers[m], levels[m], shape.row_shift, lane,
                                     [&](size_t row, auto value) HWY_ATTR { sum[row] = hn::Add(sum[row], value); });
      }
      if (divisor != nullptr && divisor->exact) {
        for (size_t row = 0; row < 8; ++row) sum[row] = hn::Mul(sum[row], hn::Set(d, divisor->reciprocal));
      } else if (divisor != nullptr) {
        for (size_t row = 0; row < 8; ++row) sum[row] = hn::Div(sum[row], hn::Set(d, divisor->count));
      }
      for (size_t row = 0; row < 8; ++row) hn::StoreU(sum[row], d, sums + row * kLanes + lane);
    }
  }
}

template <int kBits>
bool ValidGroup(const QuantizerParams& params, const uint8_t* group) {
  const hn::CappedTag<uint32_t, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const GroupShape shape(params);
  int32_t largest[8];
  for (size_t j = 0; j < shape.blocks; ++j) {
    largest[j] = largest_code(params.bits, params.rounding == Rounding::kFit, read_scale(params, group, j));
    if (largest[j] < 0) return false;
  }
  auto excess = hn::Zero(di);  // the largest code - limit so far
  TileReader<kBits> reader;
  for (size_t tile = 0; tile < shape.tiles; ++tile) {
    reader.Prepare(shape.bits, shape.tile(group, tile));
    for (size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      const auto quads = reader.Load(d, lane);
      const auto check = [&](size_t row, auto codes) HWY_ATTR {
        const auto limit = hn::Set(di, largest[row >> shape.row_shift]);
        excess = hn::Max(excess, hn::Sub(hn::BitCast(di, codes), limit));
      };
      VisitCodes<kBits>(d, quads.low, shape.bits, 0, check);
      VisitCodes<kBits>(d, quads.high, shape.bits, 4, check);
    }
  }
  return hn::AllTrue(di, hn::Eq(excess, hn::Zero(di)));
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
