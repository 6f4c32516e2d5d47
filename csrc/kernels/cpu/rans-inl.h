// Interleaved rANS, 32 lanes at once. Included once per target. Targets with fewer than eight lanes a vector keep to
// the scalar coder: tables of 16 entries take them too many shuffles.
#if defined(TSQ_KERNELS_CPU_RANS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_RANS_INL_H_
#undef TSQ_KERNELS_CPU_RANS_INL_H_
#else
#define TSQ_KERNELS_CPU_RANS_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/cpu/bit_orders.h"
#include "kernels/cpu/rans.h"

#undef TSQ_RANS_VECTORS
#define TSQ_RANS_VECTORS (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3)

#if TSQ_RANS_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using RansTag = hn::CappedTag<uint32_t, 16>;
using RansVector = hn::Vec<RansTag>;
constexpr size_t kRansWidth = HWY_TARGET == HWY_AVX3 ? 16 : 8;  // lanes a vector
constexpr size_t kRansVectors = kRansLanes / kRansWidth;

// A table of 16 entries in registers.
class RansLookup {
 public:
  HWY_INLINE explicit RansLookup(const uint32_t* entries) {
    for (size_t i = 0; i < kParts; ++i) parts_[i] = hn::Load(RansTag(), entries + kRansWidth * i);
  }
  HWY_INLINE RansVector operator[](RansVector symbols) const {
    const RansTag d;
    if constexpr (kParts == 1) return hn::TableLookupLanes(parts_[0], hn::IndicesFromVec(d, symbols));
    const auto index = hn::IndicesFromVec(d, hn::And(symbols, hn::Set(d, 7u)));
    const auto low = hn::TableLookupLanes(parts_[0], index), high = hn::TableLookupLanes(parts_[kParts - 1], index);
    return hn::IfThenElse(hn::TestBit(symbols, hn::Set(d, 8u)), high, low);
  }

 private:
  static constexpr size_t kParts = 16 / kRansWidth;
  RansVector parts_[kParts];
};

struct RansRanges {
  alignas(64) uint32_t ranges[16];  // frequency | start << 16

  explicit RansRanges(const RansTable& table) {
    for (size_t s = 0; s < 16; ++s) ranges[s] = table.frequency[s] | uint32_t{table.start[s]} << 16;
  }
};

struct RansEncodeTables : RansRanges {
  alignas(64) uint32_t reciprocals[16];  // of frequencies, a little small

  explicit RansEncodeTables(const RansTable& table) : RansRanges(table) {
    for (size_t s = 0; s < 16; ++s) {
      const uint32_t f = table.frequency[s];
      const float reciprocal = f == 0 ? 0.0f : (1.0f / static_cast<float>(f)) * (1.0f - 0x1p-22f);
      std::memcpy(&reciprocals[s], &reciprocal, 4);
    }
  }
};

// The low halves of the lanes of x under the mask go before *next, in order.
template <class M>
HWY_INLINE void PutWords(RansVector x, M mask, uint16_t** next) {
  const RansTag d;
  const hn::Rebind<uint16_t, RansTag> d16;
  const hn::FixedTag<uint16_t, 8> d16x8;
  const hn::FixedTag<uint8_t, 16> d8;
  uint8_t bits[8] = {0};
  hn::StoreMaskBits(d, mask, bits);
  HWY_ALIGN uint16_t words[kRansWidth];
  const hn::RebindToSigned<RansTag> di;
  hn::Store(hn::DemoteTo(d16, hn::BitCast(di, hn::And(x, hn::Set(d, 0xFFFFu)))), d16, words);
  for (size_t part = kRansWidth / 8; part-- > 0;) {
    const auto order = hn::Load(d8, kBitOrders.compress_words[bits[part]]);
    const auto packed = hn::TableLookupBytes(hn::BitCast(d8, hn::Load(d16x8, words + 8 * part)), order);
    hn::StoreU(packed, d8, reinterpret_cast<uint8_t*>(*next - 8));
    *next -= __builtin_popcount(bits[part]);
  }
}

// One symbol for each lane of a vector of states.
HWY_INLINE RansVector PutSymbols(RansVector x, RansVector symbols, const RansLookup& ranges,
                                 const RansLookup& reciprocals, uint16_t** next) {
  const RansTag d;
  const hn::RebindToFloat<RansTag> df;
  const hn::RebindToSigned<RansTag> di;
  const auto range = ranges[symbols];
  const auto f = hn::And(range, hn::Set(d, 0xFFFFu)), start = hn::ShiftRight<16>(range);
  const auto low = hn::Set(d, 0xFFFFu), sign = hn::Set(d, 0x80000000u);
  // x >= f << 20, of unsigned numbers; f = 4096 wraps to the largest bound.
  const auto bound = hn::Sub(hn::ShiftLeft<20>(f), hn::Set(d, 1u));
  const auto large =
      hn::RebindMask(d, hn::Gt(hn::BitCast(di, hn::Xor(x, sign)), hn::BitCast(di, hn::Xor(bound, sign))));
  PutWords(x, large, next);
  x = hn::IfThenElse(large, hn::ShiftRight<16>(x), x);
  // The quotient, below 2^20 unless f = 4096, is exact or one too small; then the remainder tells. f = 4096 keeps x.
  const auto high_part = hn::Mul(hn::ConvertTo(df, hn::BitCast(di, hn::ShiftRight<16>(x))), hn::Set(df, 65536.0f));
  const auto value = hn::Add(high_part, hn::ConvertTo(df, hn::BitCast(di, hn::And(x, low))));
  const auto q = hn::BitCast(d, hn::ConvertTo(di, hn::Mul(value, hn::BitCast(df, reciprocals[symbols]))));
  const hn::Repartition<uint16_t, RansTag> d16;
  const auto product = hn::BitCast(d, hn::Mul(hn::BitCast(d16, q), hn::BitCast(d16, f)));
  const auto rest = hn::And(hn::Sub(x, product), low);  // below 2 f: 16 bits of it suffice
  const auto short_by_one =
      hn::RebindMask(d, hn::Gt(hn::BitCast(di, hn::Add(rest, hn::Set(d, 1u))), hn::BitCast(di, f)));
  const auto y = hn::Add(hn::Add(hn::ShiftLeft<12>(q), rest), start);
  return hn::Add(y, hn::IfThenElseZero(short_by_one, hn::Sub(hn::Set(d, 4096u), f)));
}

// Symbols 0 .. n - 1 of one stream, a byte each.
HWY_INLINE void PutStream(const uint8_t* symbols, size_t n, const RansTable& table, RansEncoder& encoder) {
  const RansTag d;
  const hn::Rebind<uint8_t, RansTag> d8;
  size_t i = n;
  for (; i % kRansLanes != 0; --i) encoder.put((i - 1) % kRansLanes, symbols[i - 1], table);
  const RansEncodeTables tables(table);
  const RansLookup ranges(tables.ranges), reciprocals(tables.reciprocals);
  RansVector x[kRansVectors];
  for (size_t v = 0; v < kRansVectors; ++v) x[v] = hn::Load(d, encoder.states + v * kRansWidth);
  uint16_t* next = encoder.next;
  for (; i > 0; i -= kRansLanes) {
    const uint8_t* const from = symbols + i - kRansLanes;
    for (size_t v = kRansVectors; v-- > 0;)
      x[v] = PutSymbols(x[v], hn::PromoteTo(d, hn::LoadU(d8, from + v * kRansWidth)), ranges, reciprocals, &next);
  }
  for (size_t v = 0; v < kRansVectors; ++v) hn::Store(x[v], d, encoder.states + v * kRansWidth);
  encoder.next = next;
}

// `states` of this and of the next: aligned to a vector.
HWY_INLINE uint16_t* EncodeRans32(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes,
                                  uint32_t* states, uint16_t* end) {
  RansEncoder encoder{states, end};
  PutStream(codes.magnitudes, codes.nonzeros, magnitudes, encoder);
  HWY_ALIGN uint8_t groups[kUniformSegment / 4 + 64];
  for (size_t i = 0; i < (codes.groups() + 1) / 2; ++i) {
    groups[2 * i] = codes.flags[i] & 15;
    groups[2 * i + 1] = codes.flags[i] >> 4;
  }
  PutStream(groups, codes.groups(), flags, encoder);
  return encoder.next;
}

// Words for the lanes under the mask, in order, in the low halves; *next moves past them.
template <class M>
HWY_INLINE RansVector GetWords(M mask, const uint8_t** next) {
  const RansTag d;
  const hn::FixedTag<uint8_t, 16> d8;
  const hn::FixedTag<uint16_t, 8> d16x8;
  uint8_t bits[8] = {0};
  hn::StoreMaskBits(d, mask, bits);
  const auto part = [&](uint8_t which) HWY_ATTR {
    const auto words = hn::TableLookupBytesOr0(hn::LoadU(d8, *next), hn::Load(d8, kBitOrders.expand_words[which]));
    *next += 2 * __builtin_popcount(which);
    return hn::BitCast(d16x8, words);
  };
  const auto low = part(bits[0]);
  if constexpr (kRansWidth == 8) {
    return hn::PromoteTo(d, low);
  } else {
    const hn::Rebind<uint16_t, RansTag> d16;
    return hn::PromoteTo(d, hn::Combine(d16, part(bits[1]), low));
  }
}

// Finds symbols by halving: node k of a tree, whose sons are 2k and 2k + 1, has the start of the first symbol on its
// right. Gathers from a table of 4096 slots were slower (Zen 4: 0.80 against 0.74 ns an element to decode 1 bit).
struct RansDecodeTables : RansRanges {
  alignas(64) uint32_t tree[16];  // starts less 1; node 0 is none

  explicit RansDecodeTables(const RansTable& table) : RansRanges(table), tree() {
    for (size_t level = 0; level < 4; ++level) {
      for (size_t i = 0; i < size_t{1} << level; ++i)
        tree[(1u << level) + i] = table.start[(16 >> level) * i + (8 >> level)] - 1u;
    }
  }
};

class RansSearch {
 public:
  HWY_INLINE explicit RansSearch(const RansDecodeTables& tables)
      : root_(hn::Set(RansTag(), tables.tree[1])),
        upper_(hn::Load(RansTag(), tables.tree)),
        lower_(hn::Load(RansTag(), tables.tree + 16 - kRansWidth)) {}

  // The symbols with start <= slot < start + frequency.
  HWY_INLINE RansVector operator[](RansVector slots) const {
    const RansTag d;
    const hn::RebindToSigned<RansTag> di;
    const auto son = [&](RansVector node, RansVector bound) HWY_ATTR {
      const auto right = hn::BroadcastSignBit(hn::BitCast(di, hn::Sub(bound, slots)));  // -1 or 0
      return hn::Sub(hn::Add(node, node), hn::BitCast(d, right));
    };
    const auto look = [&](RansVector tree, RansVector node) HWY_ATTR {
      return hn::TableLookupLanes(tree, hn::IndicesFromVec(d, hn::And(node, hn::Set(d, uint32_t{kRansWidth - 1}))));
    };
    auto node = son(hn::Set(d, 1u), root_);
    node = son(node, look(upper_, node));
    node = son(node, look(upper_, node));
    node = son(node, look(lower_, node));
    return hn::Sub(node, hn::Set(d, 16u));
  }

 private:
  RansVector root_, upper_, lower_;  // the same where a vector takes the whole tree
};

HWY_INLINE RansVector GetSymbols(RansVector x, const RansSearch& search, const RansLookup& ranges, const uint8_t** next,
                                 RansVector* symbols) {
  const RansTag d;
  const auto slot = hn::And(x, hn::Set(d, 4095u));
  *symbols = search[slot];
  const auto range = ranges[*symbols];
  const auto f = hn::And(range, hn::Set(d, 0xFFFFu)), start = hn::ShiftRight<16>(range);
  x = hn::Add(hn::Mul(f, hn::ShiftRight<12>(x)), hn::Sub(slot, start));
  const auto small = hn::Eq(hn::ShiftRight<16>(x), hn::Zero(d));
  const auto words = GetWords(small, next);
  return hn::IfThenElse(small, hn::Or(hn::ShiftLeft<16>(x), words), x);
}

// The next n symbols, a byte each; the buffer takes a multiple of 32.
HWY_INLINE void GetStream(uint8_t* symbols, size_t n, const RansTable& table, RansDecoder& decoder) {
  const RansTag d;
  const hn::Rebind<uint8_t, RansTag> d8;
  const hn::RebindToSigned<RansTag> di;
  const RansDecodeTables tables(table);
  const RansSearch search(tables);
  const RansLookup ranges(tables.ranges);
  RansVector x[kRansVectors];
  for (size_t v = 0; v < kRansVectors; ++v) x[v] = hn::Load(d, decoder.states + v * kRansWidth);
  const uint8_t* next = decoder.next;
  size_t i = 0;
  for (; n - i >= kRansLanes && decoder.end - next >= 80; i += kRansLanes) {  // 32 words, read 16 bytes at a time
    for (size_t v = 0; v < kRansVectors; ++v) {
      RansVector out;
      x[v] = GetSymbols(x[v], search, ranges, &next, &out);
      hn::StoreU(hn::DemoteTo(d8, hn::BitCast(di, out)), d8, symbols + i + v * kRansWidth);
    }
  }
  for (size_t v = 0; v < kRansVectors; ++v) hn::Store(x[v], d, decoder.states + v * kRansWidth);
  decoder.next = next;
  if (i == n) return;
  const RansSlots slots(table);
  for (; i < n && !decoder.missing; ++i) symbols[i] = static_cast<uint8_t>(decoder.get(i % kRansLanes, slots));
}

HWY_INLINE const uint8_t* DecodeRans32(const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                                       const uint8_t* in, const uint8_t* end, UniformCodes& codes) {
  RansDecoder decoder{states, in, end};
  HWY_ALIGN uint8_t groups[kUniformSegment / 4 + 64];
  const size_t count = codes.groups(), bytes = (count + 1) / 2;
  GetStream(groups, count, flags, decoder);
  if (decoder.missing) return nullptr;
  groups[count] = 0;
  for (size_t i = 0; i < bytes; ++i) codes.flags[i] = static_cast<uint8_t>(groups[2 * i] | groups[2 * i + 1] << 4);
  std::memset(codes.flags + bytes, 0, 16);
  size_t nonzeros = 0;
  for (size_t i = 0; i < bytes; i += 8)
    nonzeros += static_cast<size_t>(__builtin_popcountll(tsq::load<uint64_t>(codes.flags + i)));
  codes.nonzeros = std::min(nonzeros, codes.numel);  // hostile flags behind the last element
  GetStream(codes.magnitudes, codes.nonzeros, magnitudes, decoder);
  return decoder.missing ? nullptr : decoder.next;
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_RANS_VECTORS
#endif
