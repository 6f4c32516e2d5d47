// Uniform steps: elements to streams and back. Included once per target.
#if defined(TSQ_KERNELS_CPU_UNIFORM_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_UNIFORM_STEP_INL_H_
#undef TSQ_KERNELS_CPU_UNIFORM_STEP_INL_H_
#else
#define TSQ_KERNELS_CPU_UNIFORM_STEP_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "common/bytes.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/bit_orders.h"
#include "kernels/cpu/block.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/rans-inl.h"
#include "kernels/uniform_step.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
#if TSQ_HWY_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kUniformAhead = 512;  // elements to those that are fetched for sums; what is encoded gains nothing
constexpr uint8_t kNegative = 0x80;    // of a byte with a magnitude from 1 to 16; 0: no magnitude

// Whether all that is compressed is finite in float32.
HWY_INLINE bool UniformInputIsFinite(Form form, const float* HWY_RESTRICT x, const float* HWY_RESTRICT state,
                                     size_t n) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const size_t N = hn::Lanes(d);
  const auto no_sign = hn::Set(du, ~kSignBit);
  auto largest = hn::Zero(du);
  size_t i = 0;
  for (; n - i >= N; i += N) {
    auto v = hn::LoadU(d, x + i);
    if (form == Form::kResidual) v = hn::Add(hn::LoadU(d, state + i), v);
    if (form == Form::kShifted) v = hn::Sub(v, hn::LoadU(d, state + i));
    largest = hn::Max(largest, hn::And(hn::BitCast(du, v), no_sign));
  }
  bool finite = hn::GetLane(hn::MaxOfLanes(du, largest)) < kInfBits;
  for (; i < n; ++i) {
    const float v = form == Form::kResidual ? state[i] + x[i] : form == Form::kShifted ? x[i] - state[i] : x[i];
    finite = finite && (std::bit_cast<uint32_t>(v) & ~kSignBit) < kInfBits;
  }
  return finite;
}

// The integers of one tile: as they are, and as bytes with sign and magnitude up to 16.
struct UniformTile {
  HWY_ALIGN int32_t integers[kTile];
  HWY_ALIGN uint8_t bytes[kTile];
};

// One vector at element i of the tile; `dither`: in steps, or zero.
template <class D, class V>
HWY_INLINE void QuantizeVector(D d, Form form, const UniformGrid& grid, const float* HWY_RESTRICT x,
                               float* HWY_RESTRICT state, size_t i, V dither, bool dithered, UniformTile& tile) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> d8;
  constexpr float kTop = static_cast<float>(kUniformMax);
  auto z = hn::LoadU(d, x + i);
  if (form == Form::kResidual) z = hn::Add(hn::LoadU(d, state + i), z);
  if (form == Form::kShifted) z = hn::Sub(z, hn::LoadU(d, state + i));
  auto t = hn::Mul(z, hn::Set(d, grid.inverse));
  if (dithered) t = hn::Add(t, dither);
  t = hn::Add(t, hn::Set(d, kRounder));
  t = hn::Min(hn::Max(t, hn::Set(d, kRounder - kTop)), hn::Set(d, kRounder + kTop));
  const auto q = hn::Sub(hn::BitCast(di, t), hn::Set(di, std::bit_cast<int32_t>(kRounder)));
  const auto sent = hn::Mul(hn::Sub(t, hn::Set(d, kRounder)), hn::Set(d, grid.step));
  if (form == Form::kResidual) hn::StoreU(hn::Sub(z, sent), d, state + i);
  if (form == Form::kShifted) hn::StoreU(hn::Add(hn::LoadU(d, state + i), sent), d, state + i);
  hn::Store(q, di, tile.integers + i);
  const auto magnitude = hn::Min(hn::Abs(q), hn::Set(di, int{kUniformEscape}));
  const auto sign = hn::And(hn::BroadcastSignBit(q), hn::Set(di, int{kNegative}));
  hn::Store(hn::DemoteTo(d8, hn::Or(magnitude, sign)), d8, tile.bytes + i);
}

HWY_INLINE void QuantizeTile(Form form, const UniformGrid& grid, const float* HWY_RESTRICT x, float* HWY_RESTRICT state,
                             uint64_t offset, UniformTile& tile) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const size_t N = hn::Lanes(d);
  if (!grid.stochastic || grid.inverse == 0) {
    for (size_t i = 0; i < kTile; i += N) QuantizeVector(d, form, grid, x, state, i, hn::Zero(d), false, tile);
    return;
  }
  ForEachDither(du, offset, grid.key, [&](size_t row, size_t lane, auto bits) HWY_ATTR {
    const auto u = hn::BitCast(d, hn::OrAnd(hn::Set(du, 0x3F800040u), bits, hn::Set(du, 0xFFFFu << 7)));
    QuantizeVector(d, form, grid, x, state, row * kLanes + lane, hn::Sub(u, hn::Set(d, 1.5f)), true, tile);
  });
}

// Bits of the bytes that `test` holds for, as StoreMaskBits, of `count` bytes (a multiple of 64).
template <class Test>
HWY_INLINE void BitsOfBytes(const uint8_t* HWY_RESTRICT bytes, size_t count, uint8_t* HWY_RESTRICT bits,
                            const Test& test) {
  const hn::CappedTag<uint8_t, 64> d;
  const size_t N = hn::Lanes(d);
  for (size_t i = 0; i < count; i += N) hn::StoreMaskBits(d, test(d, hn::LoadU(d, bytes + i)), bits + i / 8);
}

// Appends a tile's flags and its non-zeros' bytes (to `magnitudes`) and escapes.
HWY_INLINE void SplitTile(const UniformTile& tile, uint8_t* HWY_RESTRICT flags, UniformCodes& out) {
  const hn::FixedTag<uint8_t, 8> d8;
  BitsOfBytes(tile.bytes, kTile, flags, [](auto d, auto v) HWY_ATTR { return hn::Ne(v, hn::Zero(d)); });
  uint8_t* to = out.magnitudes + out.nonzeros;
  for (size_t i = 0; i < kTile / 8; ++i) {
    const auto order = hn::Load(d8, kBitOrders.compress[flags[i]]);
    hn::StoreU(hn::TableLookupBytes(hn::Load(d8, tile.bytes + 8 * i), order), d8, to);
    to += __builtin_popcount(flags[i]);
  }
  out.nonzeros = static_cast<size_t>(to - out.magnitudes);
  uint8_t large[kTile / 8];
  BitsOfBytes(tile.bytes, kTile, large, [](auto d, auto v) HWY_ATTR {
    return hn::Eq(hn::And(v, hn::Set(d, uint8_t{kUniformEscape})), hn::Set(d, uint8_t{kUniformEscape}));
  });
  for (size_t i = 0; i < kTile / 64; ++i) {
    for (uint64_t left = tsq::load<uint64_t>(large + 8 * i); left != 0; left &= left - 1) {
      const int32_t q = tile.integers[64 * i + static_cast<size_t>(__builtin_ctzll(left))];
      out.escaped[out.escapes++] = static_cast<uint16_t>(q < 0 ? -q : q);
    }
  }
}

// The bytes in `magnitudes` become signs and magnitudes.
HWY_INLINE void SplitSigns(UniformCodes& out) {
  const hn::CappedTag<uint8_t, 64> d;
  const size_t N = hn::Lanes(d), count = out.nonzeros;
  std::memset(out.magnitudes + count, 0, UniformCodes::kSlack);
  const size_t rounded = (count + 63) / 64 * 64;
  BitsOfBytes(out.magnitudes, rounded, out.signs,
              [](auto tag, auto v) HWY_ATTR { return hn::TestBit(v, hn::Set(tag, kNegative)); });
  for (size_t i = 0; i < rounded; i += N) {
    const auto magnitude = hn::And(hn::Load(d, out.magnitudes + i), hn::Set(d, uint8_t{0x7F}));
    hn::Store(hn::Sub(magnitude, hn::Set(d, uint8_t{1})), d, out.magnitudes + i);
  }
  std::memset(out.signs + rounded / 8, 0, UniformCodes::kSlack);
}

// Nothing may be changed if something is not finite: look first. What was looked at stays in the cache.
HWY_INLINE bool UniformInputIsFinite(Form form, ConstView x, void* state) {
  bool finite = true;
  for (size_t i = 0; i < x.numel && finite; i += kMaxBlock) {
    const size_t count = std::min(kMaxBlock, x.numel - i);
    EncodeAnyType(form, x, state, i, count, [&](Form as, const float* values, const float* changed) {
      finite = UniformInputIsFinite(as, values, changed, count);
      return false;  // nothing is done
    });
  }
  return finite;
}

bool QuantizeUniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset, UniformCodes& out) {
  if (!UniformInputIsFinite(form, x, state)) return false;
  UniformTile tile;
  const size_t n = x.numel, element = size_of(x.dtype), entry = size_of(state_dtype(x.dtype));
  out.numel = n;
  out.nonzeros = out.escapes = 0;
  const auto quantize = [&](ConstView from, void* changed, size_t begin, size_t at) {
    EncodeAnyType(form, from, changed, begin, kTile, [&](Form as, const float* values, float* floats) {
      QuantizeTile(as, grid, values, floats, offset + at, tile);
      return true;
    });
    SplitTile(tile, out.flags + at / 8, out);
  };
  size_t i = 0;
  for (; n - i >= kTile; i += kTile) quantize(x, state, i, i);
  if (i < n) {  // a tail becomes a tile: zeros have the integer 0, whatever the dither
    alignas(64) uint8_t elements[kTile * sizeof(double)] = {}, entries[kTile * sizeof(double)] = {};
    std::memcpy(elements, x.slice(i, 0).data, (n - i) * element);
    uint8_t* const from = form == Form::kPlain ? nullptr : static_cast<uint8_t*>(state) + i * entry;
    if (from != nullptr) std::memcpy(entries, from, (n - i) * entry);
    quantize({elements, x.dtype, kTile}, from != nullptr ? entries : nullptr, 0, i);
    if (from != nullptr) std::memcpy(from, entries, (n - i) * entry);
  } else {
    std::memset(out.flags + n / 8, 0, 32);
  }
  SplitSigns(out);
  return true;
}

// ---- And back -------------------------------------------------------------------------------------------------------

// Adds 64 elements, whose flags are `word`; `values`: of the non-zeros on, returns how many they were. A value of 0 is
// an escape, and is left out.
HWY_INLINE size_t AddWord(uint64_t word, const int8_t* HWY_RESTRICT values, float step, float scale,
                          float* HWY_RESTRICT sums) {
  const hn::CappedTag<float, 8> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<int8_t, decltype(d)> dq;
  const hn::FixedTag<uint8_t, 8> d8;
  const size_t N = hn::Lanes(d);
  size_t at = 0;
  for (size_t i = 0; i < 64; i += 8, word >>= 8) {
    const auto byte = static_cast<uint8_t>(word);
    const auto order = hn::Load(d8, kBitOrders.expand[byte]);
    const auto packed = hn::LoadU(d8, reinterpret_cast<const uint8_t*>(values) + at);
    HWY_ALIGN uint8_t spread[8];
    hn::Store(hn::TableLookupBytesOr0(packed, order), d8, spread);
    at += static_cast<size_t>(__builtin_popcount(byte));
    for (size_t j = 0; j < 8; j += N) {
      const auto q = hn::PromoteTo(di, hn::LoadU(dq, reinterpret_cast<const int8_t*>(spread) + j));
      const auto value = hn::Mul(hn::ConvertTo(d, q), hn::Set(d, step));
      const auto old = hn::LoadU(d, sums + i + j);
      const auto sum = hn::Add(old, hn::Mul(value, hn::Set(d, scale)));
      hn::StoreU(hn::IfThenElse(hn::RebindMask(d, hn::Eq(q, hn::Zero(di))), old, sum), d, sums + i + j);
    }
  }
  return at;
}

HWY_INLINE void AddValues(uint64_t word, size_t* at, size_t count, const int8_t* values, float step, double scale,
                          float* sums) {
  if (count == 64) {
    *at += AddWord(word, values + *at, step, static_cast<float>(scale), sums);
    return;
  }
  HWY_ALIGN float some[64] = {};
  std::copy_n(sums, count, some);
  *at += AddWord(word, values + *at, step, static_cast<float>(scale), some);
  std::copy_n(some, count, sums);
}

HWY_INLINE void AddValues(uint64_t word, size_t* at, size_t count, const int8_t* values, float step, double scale,
                          double* sums) {
  HWY_ALIGN float some[64] = {};
  *at += AddWord(word, values + *at, step, 1.0f, some);
  for (size_t j = 0; j < count; ++j)
    if (some[j] != 0) sums[j] += scale * static_cast<double>(some[j]);
}

// The signed magnitudes of the non-zeros; 0 for escapes.
HWY_INLINE void JoinSigns(const UniformCodes& codes, int8_t* HWY_RESTRICT values) {
  const hn::CappedTag<int8_t, 64> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  for (size_t i = 0; i < codes.nonzeros; i += hn::Lanes(d)) {
    const auto symbol = hn::BitCast(d, hn::Load(du, codes.magnitudes + i));
    const auto magnitude = hn::IfThenZeroElse(hn::Eq(symbol, hn::Set(d, int8_t{kUniformEscape - 1})),
                                              hn::Add(symbol, hn::Set(d, int8_t{1})));
    const auto negative = hn::LoadMaskBits(d, codes.signs + i / 8);
    hn::Store(hn::IfThenElse(negative, hn::Neg(magnitude), magnitude), d, values + i);
  }
}

// Finds each escape's element: the one of its rank among the flags.
template <class S>
HWY_INLINE void AddEscapes(const UniformCodes& codes, float step, double scale, S* sums) {
  size_t word_index = 0, before = 0, escape = 0;
  uint64_t word = tsq::load<uint64_t>(codes.flags);
  auto in_word = static_cast<size_t>(__builtin_popcountll(word));
  for (size_t rank = 0; escape < codes.escapes; ++rank) {
    if (codes.magnitudes[rank] != kUniformEscape - 1) continue;
    while (rank - before >= in_word) {
      before += in_word;
      word = tsq::load<uint64_t>(codes.flags + 8 * ++word_index);
      in_word = static_cast<size_t>(__builtin_popcountll(word));
    }
    uint64_t left = word;
    for (size_t skip = rank - before; skip > 0; --skip) left &= left - 1;
    const size_t element = 64 * word_index + static_cast<size_t>(__builtin_ctzll(left));
    const bool negative = codes.signs[rank / 8] >> (rank % 8) & 1;
    const int q = negative ? -int{codes.escaped[escape]} : int{codes.escaped[escape]};
    ++escape;
    sums[element] += static_cast<S>(scale) * static_cast<S>(static_cast<float>(q) * step);
  }
}

void AddUniform(const UniformCodes& codes, float step, double scale, View acc) {
  HWY_ALIGN int8_t values[kUniformSegment + UniformCodes::kSlack];
  JoinSigns(codes, values);
  const auto add = [&](auto* sums) {
    size_t at = 0;
    for (size_t i = 0; i < codes.numel; i += 64) {
      for (size_t line = 0; line < 64; line += 16) hwy::Prefetch(sums + i + line + kUniformAhead);
      const uint64_t word = tsq::load<uint64_t>(codes.flags + i / 8);
      if (word != 0) AddValues(word, &at, std::min<size_t>(64, codes.numel - i), values, step, scale, sums + i);
    }
    AddEscapes(codes, step, scale, sums);
  };
  acc.dtype == DType::kFloat64 ? add(acc.as<double>()) : add(acc.as<float>());
}

// ---- Counts ---------------------------------------------------------------------------------------------------------

// counts[s] += how many of n bytes below 16 are s.
HWY_INLINE void CountSymbols(const uint8_t* HWY_RESTRICT symbols, size_t n, uint32_t* HWY_RESTRICT counts) {
  const hn::CappedTag<uint8_t, 64> d;
  const size_t N = hn::Lanes(d), whole = n / N * N;
  size_t left = whole;
  for (uint8_t s = 0; s < 16 && left != 0; ++s) {
    const auto symbol = hn::Set(d, s);
    size_t found = 0;
    for (size_t i = 0; i < whole; i += N) found += hn::CountTrue(d, hn::Eq(hn::LoadU(d, symbols + i), symbol));
    counts[s] += static_cast<uint32_t>(found);
    left -= found;
  }
  for (size_t i = whole; i < n; ++i) ++counts[symbols[i]];
}

UniformCounts CountUniform(const UniformCodes& codes) {
  constexpr size_t kPart = 4096;  // bytes that are read once for each symbol
  UniformCounts counts{};
  for (size_t i = 0; i < codes.nonzeros; i += kPart)
    CountSymbols(codes.magnitudes + i, std::min(kPart, codes.nonzeros - i), counts.magnitudes);
  const size_t pairs = codes.groups() / 2;
  for (size_t i = 0; i < pairs; i += kPart / 2) {
    HWY_ALIGN uint8_t groups[kPart];
    const size_t count = std::min(kPart / 2, pairs - i);
    for (size_t j = 0; j < count; ++j) groups[j] = codes.flags[i + j] & 15;
    for (size_t j = 0; j < count; ++j) groups[count + j] = codes.flags[i + j] >> 4;
    CountSymbols(groups, 2 * count, counts.flags);
  }
  if (codes.groups() % 2 != 0) ++counts.flags[codes.flags[pairs] & 15];
  return counts;
}

// ---- The coder ------------------------------------------------------------------------------------------------------

uint16_t* EncodeRans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                     uint16_t* end) {
#if TSQ_RANS_VECTORS
  if (rans_lanes(codes.numel) == kRansLanes) {
    alignas(64) uint32_t aligned[kRansLanes];
    std::memcpy(aligned, states, sizeof aligned);
    uint16_t* const first = EncodeRans32(codes, flags, magnitudes, aligned, end);
    std::memcpy(states, aligned, sizeof aligned);
    return first;
  }
#endif
  return scalar::encode_rans(codes, flags, magnitudes, states, end);
}

const uint8_t* DecodeRans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                          const uint8_t* end, UniformCodes& codes) {
#if TSQ_RANS_VECTORS
  if (rans_lanes(codes.numel) == kRansLanes) {
    alignas(64) uint32_t aligned[kRansLanes];
    std::memcpy(aligned, states, sizeof aligned);
    const uint8_t* const stopped = DecodeRans32(flags, magnitudes, aligned, in, end, codes);
    std::memcpy(states, aligned, sizeof aligned);
    return stopped;
  }
#endif
  return scalar::decode_rans(flags, magnitudes, states, in, end, codes);
}

#else  // a target without vectors: the oracle

UniformCounts CountUniform(const UniformCodes& codes) { return scalar::count_uniform(codes); }

bool QuantizeUniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset, UniformCodes& out) {
  return scalar::quantize_uniform(grid, form, x, state, offset, out);
}

uint16_t* EncodeRans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                     uint16_t* end) {
  return scalar::encode_rans(codes, flags, magnitudes, states, end);
}

const uint8_t* DecodeRans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                          const uint8_t* end, UniformCodes& codes) {
  return scalar::decode_rans(flags, magnitudes, states, in, end, codes);
}

void AddUniform(const UniformCodes& codes, float step, double scale, View acc) {
  scalar::add_uniform(codes, step, scale, acc);
}

#endif  // TSQ_HWY_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
