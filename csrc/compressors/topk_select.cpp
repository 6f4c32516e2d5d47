#include "compressors/topk_select.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <type_traits>

#include "common/convert.h"

namespace tsq {

namespace {

constexpr size_t kChunk = 4096;  // elements between two looks at the number of candidates

template <class S>
uint64_t key_of(S value) {
  using Key = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;
  return std::bit_cast<Key>(value) & static_cast<Key>(~Key{0}) >> 1;
}

/// Keeps the `target` largest of the candidates, in order; returns the smallest key among them. count > target > 0.
template <class S>
uint64_t trim(Selection<S>& s, size_t target) {
  s.keys.resize(s.count);
  for (size_t j = 0; j < s.count; ++j) s.keys[j] = key_of(s.value[j]);
  const auto last = s.keys.begin() + static_cast<ptrdiff_t>(target - 1);
  std::nth_element(s.keys.begin(), last, s.keys.end(), std::greater<>());
  const uint64_t smallest = *last;
  size_t ties = target;
  for (size_t j = 0; j < target; ++j) ties -= s.keys[j] > smallest;
  size_t kept = 0;
  for (size_t j = 0; j < s.count; ++j) {
    const uint64_t key = key_of(s.value[j]);
    const bool tie = key == smallest && ties > 0;
    ties -= tie;
    s.index[kept] = s.index[j];
    s.value[kept] = s.value[j];
    kept += key > smallest || tie;
  }
  s.count = kept;
  return smallest;
}

void undo_residual(ConstView x, void* state, size_t end) {
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    auto* e = static_cast<typename E::State*>(state);
    for (size_t i = 0; i < end; ++i) e[i] -= E::load(x.data, i);
  });
}

}  // namespace

// Candidates are collected until there are about twice as many as wanted and then trimmed. Whatever comes after
// `target` candidates of key >= k must be larger than k to be sent (ties go to the lower index), so that the bar only
// rises: the result is exact, and a trim, which costs O(target), happens at most once per `target` candidates.
template <class S>
bool select_largest(kernels::Form form, ConstView x, void* state, size_t target, Selection<S>& s) {
  const size_t limit = std::min(x.numel, 2 * target + kChunk);
  if (const size_t capacity = limit + kChunk + kernels::kTopKSlack; s.index.size() < capacity) {
    s.index.resize(capacity);
    s.value.resize(capacity);
  }
  s.count = 0;
  uint64_t floor = 1;
  for (size_t begin = 0; begin < x.numel; begin += kChunk) {
    const size_t end = std::min(x.numel, begin + kChunk);
    const size_t done =
        kernels::scalar::topk_sweep(form, x, state, begin, end, floor, s.index.data(), s.value.data(), &s.count);
    if (done < end) {
      if (form == kernels::Form::kResidual) undo_residual(x, state, done);
      return false;
    }
    if (s.count > limit) floor = trim(s, target) + 1;
  }
  if (s.count > target) trim(s, target);
  return true;
}

template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<float>&);
template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<double>&);

}  // namespace tsq
