// The oracle of top-k's sweep.
#include <bit>
#include <limits>
#include <type_traits>

#include "common/convert.h"
#include "kernels/topk.h"

namespace tsq::kernels::scalar {

namespace {

template <class E, Form kForm>
size_t sweep(ConstView x, typename E::State* state, size_t begin, size_t end, uint64_t floor, uint32_t* index,
             typename E::State* value, size_t* count) {
  using S = typename E::State;
  using Key = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;
  constexpr Key kInfinity = std::bit_cast<Key>(std::numeric_limits<S>::infinity());
  constexpr Key kNoSign = static_cast<Key>(~Key{0}) >> 1;
  size_t n = *count;
  for (size_t i = begin; i < end; ++i) {
    S acc = E::load(x.data, i);
    if constexpr (kForm == Form::kResidual) acc = state[i] + acc;
    if constexpr (kForm == Form::kShifted) acc = acc - state[i];
    const Key key = std::bit_cast<Key>(acc) & kNoSign;
    if (key >= kInfinity) {
      *count = n;
      return i;
    }
    if constexpr (kForm == Form::kResidual) state[i] = acc;
    index[n] = static_cast<uint32_t>(i);
    value[n] = acc;
    n += key >= floor;
  }
  *count = n;
  return end;
}

}  // namespace

size_t topk_sweep(Form form, ConstView x, void* state, size_t begin, size_t end, uint64_t floor, uint32_t* index,
                  void* value, size_t* count) {
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    const auto run = form == Form::kPlain      ? sweep<E, Form::kPlain>
                     : form == Form::kResidual ? sweep<E, Form::kResidual>
                                               : sweep<E, Form::kShifted>;
    return run(x, static_cast<S*>(state), begin, end, floor, index, static_cast<S*>(value), count);
  });
}

}  // namespace tsq::kernels::scalar
