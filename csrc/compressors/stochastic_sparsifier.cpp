#include "compressors/stochastic_sparsifier.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/error.h"
#include "compressors/random_values.h"
#include "compressors/script.h"
#include "compressors/sums.h"

namespace tsq {

namespace {

using kernels::moments, kernels::sum_below, kernels::scalar::moments, kernels::scalar::sum_below;  // float, double

/// |x|^2 / V with |x| in units of tau, V the sum of x^2 / min(1, |r| / tau). Sums as lane_sum.
template <class S>
double shrink_of(const S* x, const S* r, size_t n, double tau) {
  const double inverse = 1.0 / tau;
  const kernels::Moments sums = moments(x, n, inverse);
  const auto in_units = [&](S value) { return std::abs(static_cast<double>(value)) * inverse; };
  const double second_moment = x == r ? sums.at_least : lane_sum(n, [&](size_t i) {
    const double y = in_units(x[i]);
    return r[i] == 0 ? 0.0 : y * std::max(y, y / in_units(r[i]));
  });
  const double shrink = sums.squares / second_moment;
  return shrink < 1.0 ? shrink : 1.0;  // 0 / 0, or squares that overflow: what counts is sent with certainty
}

}  // namespace

// Elements that reach the threshold are sent with certainty, the rest of the budget goes to the others in proportion:
// tau = (sum of the others) / (budget - number of these), which falls until no element joins them.
template <class S>
double solve_threshold(const S* x, size_t n, uint64_t budget) {
  uint64_t nonzero = 0;
  for (size_t i = 0; i < n && nonzero <= budget; ++i) nonzero += x[i] != 0;
  if (nonzero <= budget) return 0.0;
  uint64_t certain = 0;
  double rest = sum_below(x, n, HUGE_VAL).sum;
  for (;;) {
    const double tau =
        std::max(rest / static_cast<double>(budget - certain), std::numeric_limits<double>::denorm_min());
    const kernels::SumBelow below = sum_below(x, n, tau);
    if (below.reached <= certain || below.reached >= budget) return tau;
    rest = below.sum;
    certain = below.reached;
  }
}

template double solve_threshold(const float*, size_t, uint64_t);
template double solve_threshold(const double*, size_t, uint64_t);

StochasticSparsifier::StochasticSparsifier(const Config& config)
    : SparseVector(config.values), config_(config), count_("StochasticSparsifier", config.ratio, config.k) {
  const Quantizer* const q = config.values.quantizer();
  if (q && (q->config().levels == QuantizerLevels::kFit || !q->config().stochastic.value_or(true)))
    throw ArgumentError(
        concat("StochasticSparsifier: value_dtype: expected a quantizer with stochastic rounding, got ", q->spec()));
}

uint64_t StochasticSparsifier::max_entries(uint64_t n) const { return entry_bound(expected_entries(n), n); }

std::string StochasticSparsifier::spec() const {
  return "StochasticSparsifier(budget=" + count_.number() + values().spec() + ")";
}

Class StochasticSparsifier::class_of(size_t n, uint32_t) const {
  const double t = expected_entries(n);
  const double share = n ? t / static_cast<double>(n) : 1.0;
  const Class sent = values().unbiased().class_of(max_entries(n));
  if (config_.shrunk) return {.omega = std::nullopt, .alpha = share / (1.0 + sent.omega.value_or(0.0))};
  return random_class(1.0 / share - 1.0, share, true, sent);
}

// Var_j <= tau |x_j|, tau <= |x|_1 / T, and |x|_1 sum_j L_jj |x_j| <= (tr L + sqrt(n) |diag L|_2) |x|^2 / 2.
std::optional<double> StochasticSparsifier::script_L(const Smoothness& L, size_t n, uint32_t world_size) const {
  if (config_.shrunk || values().quantizer()) return Compressor::script_L(L, n, world_size);
  const double omega = *class_of(n).omega, t = expected_entries(n);
  return largest_of_blocks(L, n, 0, [&](const MetricBlock& all) {
    return std::min(omega * all.largest, (all.trace + std::sqrt(all.count * all.squares)) / (2 * t));
  });
}

Compressor::Encoded StochasticSparsifier::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                              MutableBytes out) const {
  check_length("StochasticSparsifier", x.numel);
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using S = typename decltype(element)::State;
    thread_local std::vector<S> buffer, products;  // these are reused: as large as the largest section's
    thread_local Selection<S> kept;
    const S* const sums = sums_of(form, x, state, buffer, 0x1p990);  // so that no sum of magnitudes overflows
    if (!sums) return send_nothing(x, out);
    const auto weights = key.chooser ? key.chooser->weights(key.offset, x.numel) : std::span<const double>();
    const S* const ranks = ranks_of(sums, x.numel, weights, products);
    double tau = solve_threshold(ranks, x.numel, count_.of(x.numel));
    if (key.chooser) tau = std::max(tau, key.chooser->threshold(std::span<const S>(ranks, x.numel), code_of(x)));
    const size_t room = max_entries(x.numel);
    double shrink = config_.shrunk && tau > 0 ? shrink_of(sums, ranks, x.numel, tau) : 1.0;
    if (config_.shrunk) shrink /= 1.0 + values().class_of(room).omega.value_or(0.0);
    const double per_unit = std::min(0x1p32 / tau, std::numeric_limits<double>::max());  // tau may be 0
    const auto scaled = [&](size_t i, double p) { return saturated<S>(static_cast<double>(sums[i]) / p * shrink); };
    select_at_most(room, x.numel, kept, [&](size_t begin, size_t end, const auto& take) {
      if (tau == 0) {
        for (size_t i = begin; i < end; ++i)
          if (sums[i] != 0) take(i, scaled(i, 1.0));
        return;
      }
      const auto bar = [&](size_t i) { return std::min(0x1p32, std::abs(static_cast<double>(ranks[i])) * per_unit); };
      const S unit = static_cast<S>(per_unit * 0x1p-16);
      const auto coarse = [&](size_t i) {  // rounding is far below the 1; 0 times infinity gives the largest bar
        return static_cast<uint32_t>(static_cast<int32_t>(std::min<S>(0x1p16, std::abs(ranks[i]) * unit))) + 1;
      };
      const auto threshold = [&](size_t i) { return static_cast<uint64_t>(bar(i)); };
      sample(key.philox, key.offset, begin, end, coarse, threshold,
             [&](size_t i) { take(i, scaled(i, static_cast<double>(threshold(i)) * 0x1p-32)); });
    });
    std::optional<Choice> choice;  // before `state`, which may be what `sums` points to, moves on
    if (key.chooser) choice = {kept.count, tau > 0 ? shrink_of(ranks, ranks, x.numel, tau) : 1.0};
    Encoded sent = send(form, x, state, key, kept, out);
    sent.choice = choice;
    return sent;
  });
}

}  // namespace tsq
