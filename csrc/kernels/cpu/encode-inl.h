// Encoding of full groups from float32. Included once per target.
//
// A run of groups goes through L1 once: LoadRun computes the quantity to compress and the largest magnitudes, RunParams
// what is the same for a block, EmitTile codes, packs and updates the state. Each of them does so for all blocks of the
// run before the next begins: one block alone would wait for its sums, divisions and roots.
#if defined(TSQ_KERNELS_CPU_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_ENCODE_INL_H_
#undef TSQ_KERNELS_CPU_ENCODE_INL_H_
#else
#define TSQ_KERNELS_CPU_ENCODE_INL_H_
#endif

#include <bit>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/block.h"
#include "kernels/cpu/fit-inl.h"
#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/words-inl.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How v, the scaled element, becomes a level number k (held as t = k + kRounder).
enum class Map : uint8_t {
  kRound,  // v = x * inverse + u, k = rint(v)
  kSign,   // v = x * inverse + u, k = v >= 0 ? 0 : -1
  kFit,    // v = x * inverse * gain + shift, k = rint(v); its zero-centred blocks are also those of kRound with u = 0
};

// Elements of a run. Where each costs little beside its memory, and for `fit` with its many sums, two blocks; where a
// state is stored and nothing but dithers is computed, one: its lines would come in bursts else.
constexpr size_t RunLength(const QuantizerParams& params, Form form) {
  const size_t length = params.rounding == Rounding::kFit || form == Form::kPlain ? 2 * kTile : kTile;
  return params.block < kTile ? kTile : HWY_MAX(params.block, length);
}

// What EmitTile needs to know about the blocks of a run, an entry for each.
struct TileParams {
  float inverse[8];
  float gain[8], shift[8];    // Map::kFit only
  float low[8], high[8];      // bounds of t; low = high in an empty block, whose codes are then all 0
  float offset[8], scale[8];  // value = ((t - kRounder) + offset) * scale
  uint32_t base[8];           // code = bits(t) - base
};

struct EncodeJob {
  QuantizerParams params;
  Form form;
  PhiloxKey key;
  size_t ahead;  // elements from those that are computed to those that are fetched
};

// d = the quantity to compress. Writes the largest magnitude of each block; returns the largest of the run. kPlain:
// `quantity` is x and stays as it is.
HWY_INLINE uint32_t LoadRun(const EncodeJob& job, const float* HWY_RESTRICT x, const float* HWY_RESTRICT state,
                            size_t n, float* HWY_RESTRICT quantity, uint32_t* HWY_RESTRICT magnitudes) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const size_t N = hn::Lanes(d), block = job.params.block;
  const auto no_sign = hn::Set(du, ~kSignBit);
  uint32_t largest = 0;
  for (size_t begin = 0; begin < n; begin += block) {
    auto magnitude0 = hn::Zero(du), magnitude1 = hn::Zero(du);
    const auto take = [&](size_t i, auto& magnitude) HWY_ATTR {
      auto v = hn::LoadU(d, x + i);
      if (job.form == Form::kResidual) v = hn::Add(hn::LoadU(d, state + i), v);
      if (job.form == Form::kShifted) v = hn::Sub(v, hn::LoadU(d, state + i));
      if (job.form != Form::kPlain) hn::Store(v, d, quantity + i);
      magnitude = hn::Max(magnitude, hn::And(hn::BitCast(du, v), no_sign));
    };
    for (size_t i = begin; i < begin + block; i += 2 * N) {
      take(i, magnitude0);
      take(i + N, magnitude1);
    }
    const uint32_t magnitude = hn::GetLane(hn::MaxOfLanes(du, hn::Max(magnitude0, magnitude1)));
    magnitudes[begin / block] = magnitude;
    largest = HWY_MAX(largest, magnitude);
  }
  return largest;
}

// Fills entry j of `tile` for a block of quantities with largest magnitude `magnitude`; returns the scale as on the
// wire. `fit`: kFit's choice, if the block is not empty.
template <Map kMap>
HWY_INLINE uint32_t BlockParams(const QuantizerParams& params, const float* quantity, uint32_t magnitude,
                                const Normalizer& norm, const BlockFit& fit, size_t j, TileParams& tile) {
  const int bits = params.bits;
  const bool empty = magnitude < tiny_bits(params);
  bool mid_rise = bits == 1;
  float scale = 0.0f;
  tile.gain[j] = 1.0f;
  tile.shift[j] = 0.0f;
  if (kMap == Map::kFit && !empty) {
    mid_rise = fit.choice.mid_rise;
    scale = fit.choice.scale;
    tile.gain[j] = mid_rise ? fit.mid_rise_inverse : 1.0f;
    tile.shift[j] = mid_rise ? -0.5f : 0.0f;
  } else if (params.rounding == Rounding::kSign && !empty) {
    scale = SignScale(params, quantity, magnitude);
  } else if (!empty) {
    scale = unbiased_scale(params, norm.unit);
  }
  const int lowest = mid_rise ? -(1 << (bits - 1)) : -centre(bits);
  const int highest = empty ? lowest : mid_rise ? (1 << (bits - 1)) - 1 : centre(bits);
  tile.inverse[j] = params.rounding == Rounding::kSign ? 1.0f : norm.inverse;
  tile.low[j] = kRounder + static_cast<float>(lowest);
  tile.high[j] = kRounder + static_cast<float>(highest);
  // (2k + 1) * scale and (k + 1/2) * (2 * scale) are the same product before rounding, and 2 * scale is exact and
  // finite.
  tile.offset[j] = mid_rise ? 0.5f : 0.0f;
  tile.scale[j] = mid_rise ? 2.0f * scale : scale;
  tile.base[j] = std::bit_cast<uint32_t>(tile.low[j]);
  const bool marked = kMap == Map::kFit && mid_rise && !empty;
  return std::bit_cast<uint32_t>(scale) | (marked ? kSignBit : 0u);
}

// Fills `tile` and the scales as on the wire for all blocks of a run.
template <Map kMap>
HWY_INLINE void RunParams(const EncodeJob& job, const float* x, const float* state, const float* quantity,
                          const uint32_t* magnitudes, size_t blocks, TileParams& tile, uint32_t* scales) {
  const QuantizerParams& params = job.params;
  Normalizer norms[kRunBlocks];
  BlockFit fits[kRunBlocks];
  for (size_t j = 0; j < blocks; ++j) {
    const bool empty = magnitudes[j] < tiny_bits(params);
    norms[j] = empty ? Normalizer{0.0f, 0.0f} : normalizer(params, magnitudes[j]);
  }
  if (kMap == Map::kFit) {
    const float* const other = job.form == Form::kPlain ? x : state;
    FitBlocks(params, quantity, magnitudes, norms, blocks, x + job.ahead, other + job.ahead, fits);
  }
  for (size_t j = 0; j < blocks; ++j) {
    const float* const block = quantity + j * params.block;
    scales[j] = BlockParams<kMap>(params, block, magnitudes[j], norms[j], fits[j], j, tile);
  }
}

// The dithers of rows 2j and 2j + 1 from word j.
template <class D, class V32>
HWY_INLINE hn::Vec<D> EvenDither(D d, V32 word) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::OrAnd(hn::Set(du, 0x3F800040u), hn::ShiftLeft<7>(word), hn::Set(du, 0xFFFFu << 7));
  return hn::Sub(hn::BitCast(d, bits), hn::Set(d, 1.5f));
}
template <class D, class V32>
HWY_INLINE hn::Vec<D> OddDither(D d, V32 word) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::OrAnd(hn::Set(du, 0x3F800040u), hn::ShiftRight<9>(word), hn::Set(du, 0xFFFFu << 7));
  return hn::Sub(hn::BitCast(d, bits), hn::Set(d, 1.5f));
}

// Level number of one vector, plus kRounder. Without a dither none is added: -0 and +0 have the same level.
template <Map kMap, bool kDither, class D, class V = hn::Vec<D>>
HWY_INLINE V RoundToLevel(D d, const TileParams& tile, size_t j, V x, V dither) {
  const auto rounder = hn::Set(d, kRounder);
  auto v = hn::Mul(x, hn::Set(d, tile.inverse[j]));
  if (kMap == Map::kFit) {
    v = hn::Add(hn::Mul(v, hn::Set(d, tile.gain[j])), hn::Set(d, tile.shift[j]));
  } else if (kDither) {
    v = hn::Add(v, dither);
  }
  if (kMap == Map::kSign) {
    v = hn::IfThenElse(hn::Ge(v, hn::Zero(d)), rounder, hn::Set(d, kRounder - 1.0f));
  } else {
    v = hn::Max(hn::Add(v, rounder), hn::Set(d, tile.low[j]));
  }
  return hn::Min(v, hn::Set(d, tile.high[j]));
}

// Sum of base[row] << (row * bits) over a quad's rows: what packing bits(t) instead of codes adds to the quad.
HWY_INLINE uint32_t QuadBase(const TileParams& tile, int bits, size_t row, size_t first, int row_shift) {
  uint32_t sum = 0;
  for (size_t k = 4; k-- > 0;) sum = (bits < 32 ? sum << bits : 0) + tile.base[first + ((row + k) >> row_shift)];
  return sum;
}

// Codes 256 quantities, packs them and updates the state. kUniform: the tile lies in block `first`; else its first
// block is 0 and has 2^row_shift rows. `counter`: Philox counter of lane 0. kFetch: what is ahead.
template <Map kMap, bool kDither, bool kUniform, int kBits, bool kFetch>
HWY_INLINE void EmitTile(const EncodeJob& job, const TileParams& tile, size_t first, int row_shift,
                         const float* HWY_RESTRICT x, const float* quantity, float* HWY_RESTRICT state,
                         uint64_t counter, uint8_t* HWY_RESTRICT out) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const size_t N = hn::Lanes(d);
  const int bits = kBits != 0 ? kBits : job.params.bits;
  const auto base_low = hn::Set(du, QuadBase(tile, bits, 0, first, kUniform ? 3 : row_shift));
  const auto base_high = hn::Set(du, QuadBase(tile, bits, 4, first, kUniform ? 3 : row_shift));
  TileWriter writer(bits, out);
  constexpr size_t kAtOnce = PhiloxVectors();
  PhiloxWords<hn::Vec<decltype(du)>> some_words[kAtOnce];
  for (size_t lane = 0, turn = 0; lane < kLanes; lane += N, turn = (turn + 1) % kAtOnce) {
    const auto zero = hn::Zero(du);
    if (kDither && turn == 0) Philox<kAtOnce>(du, counter, lane, job.key, some_words);
    const auto& words = some_words[turn];
    // Appends `row` below the rows already in `quad`.
    const auto emit = [&](size_t row, auto dither, auto& quad) HWY_ATTR {
      const size_t i = row * kLanes + lane, j = kUniform ? first : row >> row_shift;
      if (kFetch) hwy::Prefetch(x + i + job.ahead);
      const auto v = hn::LoadU(d, quantity + i);
      const auto t = RoundToLevel<kMap, kDither>(d, tile, j, v, dither);
      quad = hn::Add(ShiftLeftBits<kBits>(quad, bits), hn::BitCast(du, t));
      if (job.form == Form::kPlain) return;
      if (kFetch) hwy::Prefetch(state + i + job.ahead);
      auto value = hn::Sub(t, hn::Set(d, kRounder));
      if (kMap != Map::kRound) value = hn::Add(value, hn::Set(d, tile.offset[j]));
      value = hn::Mul(value, hn::Set(d, tile.scale[j]));
      const auto next = job.form == Form::kResidual ? hn::Sub(v, value) : hn::Add(hn::LoadU(d, state + i), value);
      hn::StoreU(next, d, state + i);
    };
    const auto none = hn::Zero(d);
    auto low = zero, high = zero;
    emit(3, kDither ? OddDither(d, words.w1) : none, low);
    emit(2, kDither ? EvenDither(d, words.w1) : none, low);
    emit(1, kDither ? OddDither(d, words.w0) : none, low);
    emit(0, kDither ? EvenDither(d, words.w0) : none, low);
    emit(7, kDither ? OddDither(d, words.w3) : none, high);
    emit(6, kDither ? EvenDither(d, words.w3) : none, high);
    emit(5, kDither ? OddDither(d, words.w2) : none, high);
    emit(4, kDither ? EvenDither(d, words.w2) : none, high);
    writer.Store(du, lane, hn::Sub(low, base_low), hn::Sub(high, base_high));
  }
  writer.Finish();
}

// Encodes n elements, at most a run of full groups. Returns false, with nothing written to state or out,
// if a quantity is not finite or so large (2^120) that the scale's limits matter.
template <Map kMap, bool kDither, int kBits>
bool EncodeRun(const EncodeJob& job, const float* x, float* state, size_t n, uint64_t offset, uint8_t* out) {
  HWY_ALIGN float buffer[kMaxBlock];
  uint32_t magnitudes[kRunBlocks], scales[kRunBlocks];
  if (LoadRun(job, x, state, n, buffer, magnitudes) >= kHugeBits) return false;

  const QuantizerParams& params = job.params;
  const float* const quantity = job.form == Form::kPlain ? x : buffer;
  constexpr bool kFetch = kMap != Map::kFit;  // whose sums do it: so the lines come in no bursts
  TileParams tile;
  RunParams<kMap>(job, x, state, quantity, magnitudes, n / params.block, tile, scales);
  if (params.block < kTile) {
    const size_t blocks = kTile / params.block;
    for (size_t j = 0; j < blocks; ++j) write_scale(params, scales[j], j, out);
    const int row_shift = std::countr_zero(params.block) - 5;
    EmitTile<kMap, kDither, false, kBits, kFetch>(job, tile, 0, row_shift, x, quantity, state, offset / kTile * kLanes,
                                                  out + params.scale_bytes() * blocks);
    return true;
  }
  const size_t tile_bytes = kLanes * static_cast<size_t>(params.bits);
  for (size_t i = 0; i < n; i += kTile, out += tile_bytes) {
    const size_t block = i / params.block;
    if (i % params.block == 0) {
      write_scale(params, scales[block], 0, out);
      out += params.scale_bytes();
    }
    const uint64_t counter = (offset + i) / kTile * kLanes;
    float* const part = state != nullptr ? state + i : nullptr;
    if (kMap == Map::kFit && tile.offset[block] == 0.0f) {
      EmitTile<Map::kRound, false, true, kBits, false>(job, tile, block, 3, x + i, quantity + i, part, counter, out);
    } else {
      EmitTile<kMap, kDither, true, kBits, kFetch>(job, tile, block, 3, x + i, quantity + i, part, counter, out);
    }
  }
  return true;
}

using EncodeRunFunction = bool (*)(const EncodeJob&, const float*, float*, size_t, uint64_t, uint8_t*);

template <int kBits>
EncodeRunFunction ChooseEncodeRun(Rounding rounding, int bits) {
  if (rounding == Rounding::kFit) return EncodeRun<Map::kFit, false, kBits>;
  if (rounding == Rounding::kSign) return EncodeRun<Map::kSign, false, kBits>;
  if (rounding == Rounding::kNearest) {
    return bits == 1 ? EncodeRun<Map::kSign, false, kBits> : EncodeRun<Map::kRound, false, kBits>;
  }
  return bits == 1 ? EncodeRun<Map::kSign, true, kBits> : EncodeRun<Map::kRound, true, kBits>;
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
