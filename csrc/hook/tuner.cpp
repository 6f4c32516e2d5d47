#include "hook/tuner.h"

#include <algorithm>

#include "common/error.h"
#include "mechanisms/vectors.h"

namespace tsq {

Tuner::Tuner(std::shared_ptr<const Cat> policy, size_t parameters, size_t model_numel)
    : policy_(std::move(policy)), seen_(parameters, false), model_numel_(model_numel) {
  if (policy_ && policy_->config().budget && !policy_->config().cost->of_bytes(0))
    throw ArgumentError(
        "CAT: budget: expected BitCost or PacketCost in a hook: only from these do all ranks know what the others "
        "spent");
}

void Tuner::begin(std::span<const uint32_t> ids, size_t numel) {
  bucket_numel_ = numel;
  if (!policy_) return;
  if (std::any_of(ids.begin(), ids.end(), [&](uint32_t id) { return seen_[id]; })) set_price(price());
  for (const uint32_t id : ids) seen_[id] = true;
}

const EntryChooser* Tuner::chooser(size_t numel) {
  if (!policy_) return nullptr;
  const bool measured = dynamic_cast<const MeasuredCost*>(policy_->config().cost.get()) != nullptr;
  const auto whole = static_cast<double>(std::max<size_t>(measured ? bucket_numel_ : model_numel_, 1));
  chooser_.emplace(policy_->chooser(std::min(1.0, static_cast<double>(numel) / whole), price_));
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

}  // namespace tsq
