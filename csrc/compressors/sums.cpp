#include "compressors/sums.h"

#include <bit>
#include <limits>
#include <type_traits>

#include "common/convert.h"
#include "compressors/sweep.h"

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
  return sweep_all(x.numel, [&](size_t first, size_t numel) {
    for (size_t begin = first, last = first + numel; begin < last; begin += kChunk) {
      const size_t end = std::min(last, begin + kChunk);
      Bits bad = 0;
      for (size_t i = begin; i < end; ++i)
        bad |= static_cast<Bits>((std::bit_cast<Bits>(sum_at<kForm, E>(x.data, state, i)) & kNoSign) >= bar);
      if (bad) return false;
    }
    return true;
  });
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
  sweep(x.numel, [&](size_t first, size_t numel) {
    for (size_t i = first; i < first + numel; ++i) out[i] = sum_at<kForm, E>(x.data, state, i);
  });
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

double squared_norm_of(kernels::Form form, ConstView x, const void* state) {
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    const S* const v = static_cast<const S*>(state);
    const auto norm = [&](auto sum) {
      return lane_sum(x.numel, [&](size_t i) {
        const auto value = static_cast<double>(sum(i));
        return value * value;
      });
    };
    if (form == kernels::Form::kResidual) return norm([&](size_t i) { return v[i]; });
    if (form == kernels::Form::kPlain) return norm([&](size_t i) { return E::load(x.data, i); });
    return norm([&](size_t i) { return static_cast<S>(E::load(x.data, i)) - v[i]; });
  });
}

template const float* sums_of(kernels::Form, ConstView, void*, std::vector<float>&, double);
template const double* sums_of(kernels::Form, ConstView, void*, std::vector<double>&, double);

}  // namespace tsq
