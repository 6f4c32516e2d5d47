#include "compressors/smooth_bernoulli.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "compressors/random_values.h"
#include "compressors/script.h"
#include "compressors/sums.h"
#include "wire/indices.h"

namespace tsq {

namespace {

constexpr const char* kName = "SmoothBernoulli";

/// 2^32 p, at least 1 for a positive p.
uint64_t threshold_of(double p) {
  return p > 0 ? std::max(uint64_t{1}, static_cast<uint64_t>(std::nearbyint(std::min(p, 1.0) * 0x1p32))) : 0;
}

}  // namespace

SmoothBernoulli::SmoothBernoulli(const Config& config, std::optional<Tuning> tuning)
    : SparseVector(config.values), config_(config), tuning_(std::move(tuning)) {
  config.budget.check(kName);
  if (!tuning_) return;
  const std::vector<double>& diagonal = tuning_->diagonal;
  const double tau = expected_entries(diagonal.size());
  for (const double p : bernoulli_probabilities(diagonal, tau, tuning_->n_mu)) thresholds_.push_back(threshold_of(p));
}

CompressorPtr SmoothBernoulli::with(const Values& values, bool scaled, std::optional<Tuning> tuning) const {
  return std::make_shared<SmoothBernoulli>(Config{config_.budget, values, scaled}, std::move(tuning));
}

std::string SmoothBernoulli::spec() const { return concat(kName, "(", config_.budget.text(), values().spec(), ")"); }

double SmoothBernoulli::expected_entries(uint64_t n) const {
  if (!config_.budget.bits) return n ? granted_entries(config_.budget, n, 0, 0) : 0;
  uint64_t low = 0, high = n;  // the largest number of entries whose bytes are within the bits
  while (low < high) {
    const uint64_t middle = low + (high - low + 1) / 2;
    const size_t bytes = wire::max_index_bytes(n, middle) + values().bytes(middle, DType::kFloat32);
    if (8.0 * static_cast<double>(bytes) <= *config_.budget.bits * static_cast<double>(n))
      low = middle;
    else
      high = middle - 1;
  }
  return static_cast<double>(low);
}

uint64_t SmoothBernoulli::max_entries(uint64_t n) const { return entry_bound(expected_entries(n), n); }

void SmoothBernoulli::check_numel(size_t n) const {
  check_length(kName, n);
  if (tuning_ && n != thresholds_.size())
    throw ArgumentError(concat(kName, ": fitted to ", thresholds_.size(), " elements, got ", n));
  if (n == 0) return;
  if (config_.budget.bits && expected_entries(n) == 0)
    throw ArgumentError(
        concat(kName, ": bits: expected enough for one entry of ", n, " elements, got ", *config_.budget.bits));
  if (!config_.budget.bits) check_budget(kName, config_.budget, n, 0, 0);
}

double SmoothBernoulli::probability(size_t j, size_t n) const {
  const uint64_t t = tuning_ ? thresholds_.at(j) : threshold_of(expected_entries(n) / static_cast<double>(n));
  return static_cast<double>(t) * 0x1p-32;
}

Class SmoothBernoulli::class_of(size_t n, uint32_t) const {
  if (n == 0) return random_class(0, 1, config_.scaled, values().class_of(0));
  double least = tuning_ ? 1.0 : probability(0, n);
  for (const uint64_t t : thresholds_)
    if (t) least = std::min(least, static_cast<double>(t) * 0x1p-32);
  return random_class(1 / least - 1, least, config_.scaled, values().class_of(max_entries(n)));
}

std::optional<double> SmoothBernoulli::script_L(const Smoothness& L, size_t n, uint32_t world_size) const {
  if (!config_.scaled || values().quantizer()) return Compressor::script_L(L, n, world_size);
  const std::vector<double> diagonal = L.diagonal(n);
  double largest = 0;
  for (size_t j = 0; j < n; ++j) {
    const double p = probability(j, n);
    if (p > 0) largest = std::max(largest, (1 / p - 1) * diagonal[j]);
  }
  return largest;
}

Compressor::Encoded SmoothBernoulli::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                         MutableBytes out) const {
  check_numel(x.numel);
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using S = typename decltype(element)::State;
    thread_local std::vector<S> buffer;  // these two are reused: as large as the largest section's
    thread_local Selection<S> kept;
    const S* const sums = sums_of(form, x, state, buffer);
    if (!sums) return send_nothing(x, out);
    const uint64_t common = tuning_ || x.numel == 0 ? 0 : threshold_of(probability(0, x.numel));
    const auto threshold = [&](size_t i) { return tuning_ ? thresholds_[i] : common; };
    const auto coarse = [&](size_t i) { return static_cast<uint32_t>(threshold(i) >> 16); };
    select_at_most(max_entries(x.numel), x.numel, kept, [&](size_t begin, size_t end, const auto& take) {
      sample(key.philox, key.offset, begin, end, coarse, threshold, [&](size_t i) {
        if (sums[i] == 0) return;
        const double p = config_.scaled ? static_cast<double>(threshold(i)) * 0x1p-32 : 1.0;
        take(i, saturated<S>(static_cast<double>(sums[i]) / p));
      });
    });
    return send(form, x, state, key, kept, out);
  });
}

}  // namespace tsq
