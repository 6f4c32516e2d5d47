#include "hook/tuner.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "common/error.h"
#include "mechanisms/vectors.h"

namespace tsq {

Tuner::Tuner(std::shared_ptr<const Cat> policy, const std::vector<size_t>& numels, std::vector<Weights> weights)
    : policy_(std::move(policy)),
      weights_(std::move(weights)),
      seen_(numels.size(), false),
      model_numel_(std::accumulate(numels.begin(), numels.end(), size_t{0})) {
  if (policy_ && policy_->config().budget && !policy_->config().cost->of_bytes(0))
    throw ArgumentError(
        "CAT: budget: expected BitCost or PacketCost in a hook: only from these do all ranks know what the others "
        "spent");
  if (!weights_.empty() && weights_.size() != numels.size())
    throw ArgumentError(concat("CAT: smoothness: expected ", numels.size(), " parameters, got ", weights_.size()));
  for (size_t i = 0; i < weights_.size(); ++i) {
    check_weights(concat("CAT: smoothness: parameter ", i), weights_[i]);
    if (weights_[i] && weights_[i]->size() != numels[i])
      throw ArgumentError(
          concat("CAT: smoothness: parameter ", i, ": expected ", numels[i], " elements, got ", weights_[i]->size()));
  }
}

void Tuner::begin(std::span<const uint32_t> ids, size_t numel) {
  bucket_numel_ = numel;
  if (!policy_) return;
  if (std::any_of(ids.begin(), ids.end(), [&](uint32_t id) { return seen_[id]; })) set_price(price());
  for (const uint32_t id : ids) seen_[id] = true;
}

const EntryChooser* Tuner::chooser(uint32_t parameter, size_t numel) {
  if (!policy_) return nullptr;
  const auto whole = static_cast<double>(std::max<size_t>(measured() ? bucket_numel_ : model_numel_, 1));
  chooser_.emplace(policy_->chooser(std::min(1.0, static_cast<double>(numel) / whole), price_,
                                    weights_.empty() ? nullptr : weights_[parameter]));
  return &*chooser_;
}

void Tuner::learn(const Bucket& bucket, ConstView mean) {
  if (!policy_) return;
  if (bucket.message_bytes > 0) policy_->observe(bucket.message_bytes, bucket.exchange_seconds);
  if (!policy_->config().budget || bucket.agreed_bytes == 0) return;
  spent_ += *policy_->config().cost->of_bytes(static_cast<double>(bucket.agreed_bytes));
  if (price_ == 0) energy_ += squared_norm(mean);  // a sweep in the first step that sends something
}

double Tuner::price() const { return policy_ && spent_ > 0 ? policy_->next_price(price_, spent_, energy_) : price_; }

void Tuner::set_price(double price) {
  price_ = price;
  spent_ = energy_ = 0;
  std::fill(seen_.begin(), seen_.end(), false);
}

void Tuner::scale(double factor) {
  price_ *= factor * factor;
  energy_ *= factor * factor;
}

// The means of the ranks' sums; deviations are from the common means.
MeasuredCost::State mean_of(const MeasuredCost::State& mine, Exchange& exchange) {
  if (exchange.size() == 1) return mine;
  double sums[] = {mine.samples, mine.weight, mine.weight * mine.mean_bytes, mine.weight * mine.mean_seconds};
  exchange.all_reduce_mean({sums, DType::kFloat64, std::size(sums)});
  MeasuredCost::State all{.samples = std::ceil(sums[0]), .weight = sums[1]};
  if (all.weight == 0) return {};
  all.mean_bytes = sums[2] / all.weight;
  all.mean_seconds = sums[3] / all.weight;
  const double bytes = mine.mean_bytes - all.mean_bytes, seconds = mine.mean_seconds - all.mean_seconds;
  double products[] = {mine.variance + mine.weight * bytes * bytes, mine.covariance + mine.weight * bytes * seconds};
  exchange.all_reduce_mean({products, DType::kFloat64, std::size(products)});
  all.variance = products[0];
  all.covariance = products[1];
  return all;
}

}  // namespace tsq
