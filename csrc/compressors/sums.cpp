#include "compressors/sums.h"

#include <bit>
#include <limits>
#include <type_traits>

#include "common/convert.h"

namespace tsq {

namespace {

template <kernels::Form kForm, class E>
typename E::State sum_at(const void* x, const typename E::State* state, size_t i) {
  if constexpr (kForm == kernels::Form::kResidual) return state[i] + E::load(x, i);
  if constexpr (kForm == kernels::Form::kShifted) return E::load(x, i) - state[i];
  return E::load(x, i);
}

template <kernels::Form kForm, class E>
bool all_below(ConstView x, const typename E::State* state, typename E::State limit) {
  using S = typename E::State;
  using Bits = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;
  constexpr Bits kNoSign = static_cast<Bits>(~Bits{0}) >> 1;
  const Bits bar = std::bit_cast<Bits>(limit);  // magnitudes are ordered as their bits are, NaN last
  constexpr size_t kChunk = 4096;               // elements between two looks
  for (size_t begin = 0; begin < x.numel; begin += kChunk) {
    const size_t end = std::min(x.numel, begin + kChunk);
    Bits bad = 0;
    for (size_t i = begin; i < end; ++i)
      bad |= static_cast<Bits>((std::bit_cast<Bits>(sum_at<kForm, E>(x.data, state, i)) & kNoSign) >= bar);
    if (bad) return false;
  }
  return true;
}

template <kernels::Form kForm, class E>
const typename E::State* make_sums(ConstView x, typename E::State* state, std::vector<typename E::State>& buffer,
                                   typename E::State limit) {
  using S = typename E::State;
  if (!all_below<kForm, E>(x, state, limit)) return nullptr;
  constexpr bool kIsState = sizeof(S) == sizeof(double) || std::is_same_v<E, Element<DType::kFloat32>>;
  if (kForm == kernels::Form::kPlain && kIsState && x.numel) return x.as<S>();
  S* out = state;
  if (kForm != kernels::Form::kResidual || x.numel == 0) {
    buffer.resize(std::max<size_t>(x.numel, 1));  // an empty one has no address
    out = buffer.data();
  }
  for (size_t i = 0; i < x.numel; ++i) out[i] = sum_at<kForm, E>(x.data, state, i);
  return out;
}

}  // namespace

template <class S>
const S* sums_of(kernels::Form form, ConstView x, void* state, std::vector<S>& buffer, double limit) {
  return with_element(x.dtype, [&](auto element) -> const S* {
    using E = decltype(element);
    if constexpr (!std::is_same_v<typename E::State, S>) {
      return nullptr;
    } else {
      S* const v = static_cast<S*>(state);
      switch (form) {
        case kernels::Form::kResidual:
          return make_sums<kernels::Form::kResidual, E>(x, v, buffer, static_cast<S>(limit));
        case kernels::Form::kShifted:
          return make_sums<kernels::Form::kShifted, E>(x, v, buffer, static_cast<S>(limit));
        case kernels::Form::kPlain:
          break;
      }
      return make_sums<kernels::Form::kPlain, E>(x, v, buffer, static_cast<S>(limit));
    }
  });
}

template const float* sums_of(kernels::Form, ConstView, void*, std::vector<float>&, double);
template const double* sums_of(kernels::Form, ConstView, void*, std::vector<double>&, double);

void dither_tile(PhiloxKey key, uint64_t tile, uint32_t domain, uint16_t (&out)[kDitherTile]) {
  constexpr size_t kLanes = 32;
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (size_t l = 0; l < kLanes; ++l) {
    const uint64_t counter = tile * kLanes + l;
    c0[l] = static_cast<uint32_t>(counter);
    c1[l] = static_cast<uint32_t>(counter >> 32);
    c2[l] = domain;
    c3[l] = 0;
  }
  for (int round = 0; round < 10; ++round) {
    for (size_t l = 0; l < kLanes; ++l) {
      const uint64_t product0 = uint64_t{c0[l]} * kPhiloxMultiplier0, product1 = uint64_t{c2[l]} * kPhiloxMultiplier1;
      c0[l] = static_cast<uint32_t>(product1 >> 32) ^ c1[l] ^ key.low;
      c1[l] = static_cast<uint32_t>(product1);
      c2[l] = static_cast<uint32_t>(product0 >> 32) ^ c3[l] ^ key.high;
      c3[l] = static_cast<uint32_t>(product0);
    }
    key.low += kPhiloxWeyl0;
    key.high += kPhiloxWeyl1;
  }
  const uint32_t* const words[4] = {c0, c1, c2, c3};
  for (size_t row = 0; row < kDitherTile / kLanes; ++row)
    for (size_t l = 0; l < kLanes; ++l)
      out[row * kLanes + l] = static_cast<uint16_t>(words[row / 2][l] >> (16 * (row % 2)));
}

}  // namespace tsq
