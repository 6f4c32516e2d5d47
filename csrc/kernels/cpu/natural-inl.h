// Natural compression of full tiles, and the entry points of one target. Included once per target.
#if defined(TSQ_KERNELS_CPU_NATURAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_NATURAL_INL_H_
#undef TSQ_KERNELS_CPU_NATURAL_INL_H_
#else
#define TSQ_KERNELS_CPU_NATURAL_INL_H_
#endif

#include <algorithm>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/block.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/words-inl.h"
#include "kernels/natural.h"

HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
#if TSQ_HWY_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kNaturalTileBytes = natural_bytes(kTile);
constexpr size_t kNaturalPrefetch = 512;  // elements ahead

// One tile from float32. Returns false, with nothing written, if a quantity reaches the limit.
inline bool EncodeNaturalTile(Form form, const float* HWY_RESTRICT x, float* HWY_RESTRICT state, PhiloxKey key,
                              uint64_t offset, uint8_t* HWY_RESTRICT out) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t N = hn::Lanes(d);
  HWY_ALIGN float quantity[kTile];
  const auto no_sign = hn::Set(du, ~kSignBit);
  auto largest = hn::Zero(du);
  for (size_t i = 0; i < kTile; i += N) {
    auto v = hn::LoadU(d, x + i);
    if (form == Form::kResidual) v = hn::Add(hn::LoadU(d, state + i), v);
    if (form == Form::kShifted) v = hn::Sub(v, hn::LoadU(d, state + i));
    hn::Store(v, d, quantity + i);
    largest = hn::Max(largest, hn::And(hn::BitCast(du, v), no_sign));
  }
  if (hn::GetLane(hn::MaxOfLanes(du, largest)) >= kNaturalLimitBits) return false;

  constexpr size_t kAtOnce = PhiloxVectors();
  PhiloxWords<hn::Vec<decltype(du)>> some_words[kAtOnce];
  TileWriter signs(1, out + kTile);
  for (size_t lane = 0, turn = 0; lane < kLanes; lane += N, turn = (turn + 1) % kAtOnce) {
    if (turn == 0) Philox<kAtOnce>(du, offset / kTile * kLanes, lane, key, some_words);
    const auto& words = some_words[turn];
    // `dither`: r << 7 and left-overs in other bits. Appends the sign of `row` below the rows already in `quad`.
    const auto emit = [&](size_t row, auto dither, auto& quad) HWY_ATTR {
      const size_t i = row * kLanes + lane;
      hwy::Prefetch(x + i + kNaturalPrefetch);
      const auto v = hn::Load(d, quantity + i);
      const auto bits = hn::BitCast(du, v), magnitude = hn::And(bits, no_sign);
      const auto add = hn::OrAnd(hn::Set(du, 64u), dither, hn::Set(du, 0xFFFFu << 7));
      const auto rounded = hn::And(hn::Add(magnitude, add), hn::Set(du, kInfBits));
      const auto is_zero = hn::RebindMask(du, hn::Lt(hn::BitCast(di, magnitude), hn::Set(di, int{kNaturalMinBits})));
      const auto value = hn::IfThenZeroElse(is_zero, hn::Or(rounded, hn::AndNot(no_sign, bits)));
      const auto exponent = hn::ShiftRight<23>(hn::And(value, no_sign));
      hn::StoreU(hn::DemoteTo(d8, hn::BitCast(di, exponent)), d8, out + i);
      quad = hn::Or(hn::ShiftLeft<1>(quad), hn::ShiftRight<31>(value));
      if (form == Form::kPlain) return;
      hwy::Prefetch(state + i + kNaturalPrefetch);
      const auto sent = hn::BitCast(d, value);
      const auto next = form == Form::kResidual ? hn::Sub(v, sent) : hn::Add(hn::LoadU(d, state + i), sent);
      hn::StoreU(next, d, state + i);
    };
    auto low = hn::Zero(du), high = hn::Zero(du);
    emit(3, hn::ShiftRight<9>(words.w1), low);
    emit(2, hn::ShiftLeft<7>(words.w1), low);
    emit(1, hn::ShiftRight<9>(words.w0), low);
    emit(0, hn::ShiftLeft<7>(words.w0), low);
    emit(7, hn::ShiftRight<9>(words.w3), high);
    emit(6, hn::ShiftLeft<7>(words.w3), high);
    emit(5, hn::ShiftRight<9>(words.w2), high);
    emit(4, hn::ShiftLeft<7>(words.w2), high);
    signs.Store(du, lane, low, high);
  }
  return true;
}

// Calls visit(i, exponents, signs) for the vectors of a tile.
template <class D, class Visit>
HWY_INLINE void VisitNaturalTile(D du, const uint8_t* in, const Visit& visit) {
  const hn::Rebind<uint8_t, D> d8;
  TileReader<1> reader;
  reader.Prepare(1, in + kTile);
  for (size_t lane = 0; lane < kLanes; lane += hn::Lanes(du)) {
    const auto quads = reader.Load(du, lane);
    const auto take = [&](size_t row, auto sign) HWY_ATTR {
      const size_t i = row * kLanes + lane;
      visit(i, hn::PromoteTo(du, hn::LoadU(d8, in + i)), sign);
    };
    VisitCodes<1>(du, quads.low, 1, 0, take);
    VisitCodes<1>(du, quads.high, 1, 4, take);
  }
}

// sums += scale * values of one tile.
inline void AddNaturalTile(const uint8_t* HWY_RESTRICT in, float scale, float* HWY_RESTRICT sums) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const auto factor = hn::Set(d, scale);
  VisitNaturalTile(du, in, [&](size_t i, auto exponent, auto sign) HWY_ATTR {
    const auto value = hn::BitCast(d, hn::Or(hn::ShiftLeft<23>(exponent), hn::ShiftLeft<31>(sign)));
    hn::StoreU(hn::Add(hn::LoadU(d, sums + i), hn::Mul(value, factor)), d, sums + i);
  });
}

inline bool ValidNaturalTile(const uint8_t* in) {
  const hn::CappedTag<uint32_t, 16> du;
  auto bad = hn::Zero(du);
  VisitNaturalTile(du, in, [&](size_t, auto exponent, auto sign) HWY_ATTR {
    // A negative zero is 256, too large an exponent 255 or 511.
    const auto code = hn::Or(exponent, hn::ShiftLeft<8>(sign));
    const auto illegal = hn::Or(hn::Eq(exponent, hn::Set(du, 255u)), hn::Eq(code, hn::Set(du, 256u)));
    bad = hn::Or(bad, hn::VecFromMask(du, illegal));
  });
  return hn::AllTrue(du, hn::Eq(bad, hn::Zero(du)));
}

bool EncodeNatural(Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset, uint8_t* out) {
  const auto state_at = [&](size_t i) {
    return state != nullptr ? static_cast<char*>(state) + i * size_of(state_dtype(x.dtype)) : nullptr;
  };
  bool finite = true;
  size_t i = 0;
  for (; x.numel - i >= kTile; i += kTile, out += kNaturalTileBytes) {
    const bool done = EncodeAnyType(form, x, state, i, kTile, [&](Form as, const float* values, float* changed) {
      return EncodeNaturalTile(as, values, changed, key, offset + i, out);
    });
    if (done) continue;
    finite = scalar::encode_natural(form, x.slice(i, kTile), state_at(i), key, offset + i, out) && finite;
  }
  if (i == x.numel) return finite;
  return scalar::encode_natural(form, x.slice(i, x.numel - i), state_at(i), key, offset + i, out) && finite;
}

void DecodeNaturalAdd(const uint8_t* in, size_t n, double scale, View acc) {
  size_t i = 0;
  for (; n - i >= kTile; i += kTile, in += kNaturalTileBytes) {
    if (acc.dtype != DType::kFloat64) {
      AddNaturalTile(in, static_cast<float>(scale), acc.as<float>() + i);
      continue;
    }
    HWY_ALIGN float values[kTile];
    std::fill_n(values, kTile, -0.0f);
    AddNaturalTile(in, 1.0f, values);
    double* const sums = acc.as<double>() + i;
    for (size_t j = 0; j < kTile; ++j) sums[j] += scale * static_cast<double>(values[j]);
  }
  scalar::decode_natural_add(in, n - i, scale, acc.slice(i, n - i));
}

// The mean of one tile, `begin` bytes into each message, in S.
template <class S>
HWY_INLINE void MeanNaturalTile(const uint8_t* const* in, size_t count, size_t begin, S* HWY_RESTRICT sums) {
  std::fill_n(sums, kTile, S{0});
  for (size_t m = 0; m < count; ++m) {
    if constexpr (sizeof(S) == sizeof(float)) {
      AddNaturalTile(in[m] + begin, 1.0f, sums);
    } else {
      HWY_ALIGN float values[kTile];
      std::fill_n(values, kTile, -0.0f);
      AddNaturalTile(in[m] + begin, 1.0f, values);
      for (size_t j = 0; j < kTile; ++j) sums[j] += static_cast<S>(values[j]);
    }
  }
  if (count <= 1) return;
  const S divisor = static_cast<S>(count);
  for (size_t j = 0; j < kTile; ++j) sums[j] /= divisor;
}

void DecodeNaturalMean(const uint8_t* const* in, size_t count, View out) {
  const size_t n = out.numel;
  HWY_ALIGN float sums[kTile];
  size_t i = 0, begin = 0;
  for (; n - i >= kTile; i += kTile, begin += kNaturalTileBytes) {
    switch (out.dtype) {
      case DType::kFloat32:
        MeanNaturalTile(in, count, begin, out.as<float>() + i);
        break;
      case DType::kFloat64:
        MeanNaturalTile(in, count, begin, out.as<double>() + i);
        break;
      case DType::kFloat16:
        MeanNaturalTile(in, count, begin, sums);
        Narrow(sums, kTile, out.as<Half>() + i);
        break;
      case DType::kBFloat16:
        MeanNaturalTile(in, count, begin, sums);
        Narrow(sums, kTile, out.as<BFloat16>() + i);
        break;
    }
  }
  scalar::decode_natural_mean_from(in, count, i, out.slice(i, n - i));
}

bool ValidNatural(const uint8_t* in, size_t n) {
  size_t i = 0;
  for (; n - i >= kTile; i += kTile, in += kNaturalTileBytes) {
    if (!ValidNaturalTile(in)) return false;
  }
  return scalar::valid_natural(in, n - i);
}

#else  // a target without vectors: the oracle

bool EncodeNatural(Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset, uint8_t* out) {
  return scalar::encode_natural(form, x, state, key, offset, out);
}

void DecodeNaturalAdd(const uint8_t* in, size_t n, double scale, View acc) {
  scalar::decode_natural_add(in, n, scale, acc);
}

void DecodeNaturalMean(const uint8_t* const* in, size_t count, View out) {
  scalar::decode_natural_mean(in, count, out);
}

bool ValidNatural(const uint8_t* in, size_t n) { return scalar::valid_natural(in, n); }

#endif  // TSQ_HWY_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif
