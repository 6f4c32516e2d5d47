#include "compressors/topk.h"

#include "compressors/chooser.h"
#include "compressors/chosen.h"
#include "compressors/sums.h"

namespace tsq {

Class TopK::class_of(size_t n, uint32_t) const {
  const size_t k = target(n);
  const Class sent = values().class_of(k);
  if (k == n) return sent;
  // |x - Q T x|^2 = |x - T x|^2 + |T x - Q T x|^2 <= |x|^2 - a |T x|^2
  const auto n_double = static_cast<double>(n);
  return {.omega = std::nullopt,
          .alpha = sent.alpha ? std::optional(*sent.alpha * (static_cast<double>(k) / n_double)) : std::nullopt};
}

/// Selects at most target() entries and leaves of them what the chooser wants: what it chose; none if an element is not
/// finite.
template <class S>
std::optional<Compressor::Choice> TopK::choose(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                               Selection<S>& kept) const {
  const auto square = [](S value) { return static_cast<double>(value) * static_cast<double>(value); };
  const std::span<const double> weights = key.chooser->weights(key.offset, x.numel);
  thread_local std::vector<S> buffer, products;  // reused: as large as the largest section
  const auto pick = [&](std::span<const S> candidates) { return key.chooser->largest(candidates, code_of(x)); };
  const S *sums = nullptr, *ranks = nullptr;
  if (weights.empty()) {
    if (!select_chosen(form, x, state, target(x.numel), kept, pick)) return std::nullopt;
  } else {
    sums = sums_of(form, x, state, buffer);
    if (!sums) return std::nullopt;
    ranks = ranks_of(sums, x.numel, weights, products);
    const ConstView ranked{ranks, state_dtype(x.dtype), x.numel};
    select_chosen(kernels::Form::kPlain, ranked, nullptr, target(x.numel), kept, pick);
  }
  const double sent = lane_sum(kept.count, [&](size_t j) { return square(kept.value[j]); });
  const double all =
      ranks ? lane_sum(x.numel, [&](size_t i) { return square(ranks[i]); }) : squared_norm_of(form, x, state);
  if (ranks)
    for (size_t j = 0; j < kept.count; ++j) kept.value[j] = sums[kept.index[j]];
  return Choice{kept.count, sent / all};
}

Compressor::Encoded TopK::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                              MutableBytes out) const {
  check_length("TopK", x.numel);
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using S = typename decltype(element)::State;
    thread_local Selection<S> kept;  // reused: as large as the largest section
    std::optional<Choice> choice;
    if (key.chooser)
      choice = choose(form, x, state, key, kept);
    else if (!select_largest(form, x, state, target(x.numel), kept))
      return send_nothing(x, out);
    if (key.chooser && !choice) return send_nothing(x, out);
    Encoded sent = send(form, x, state, key, kept, out);
    sent.choice = choice;
    return sent;
  });
}

}  // namespace tsq
