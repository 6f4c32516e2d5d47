#include "hook/tuner.h"

#include "common/error.h"
#include "mechanisms/vectors.h"

namespace tsq {

Tuner::Tuner(std::shared_ptr<const Cat> policy) : policy_(std::move(policy)) {
  if (policy_ && policy_->config().budget && !policy_->config().cost->of_bytes(0))
    throw ArgumentError(
        "CAT: budget: expected BitCost or PacketCost in a hook: only from these do all ranks know what the others "
        "spent");
}

const EntryChooser* Tuner::chooser(double share) {
  if (!policy_) return nullptr;
  chooser_.emplace(policy_->chooser(share, price_));
  return &*chooser_;
}

void Tuner::learn(const Bucket& bucket, ConstView mean) {
  if (!policy_) return;
  if (bucket.message_bytes > 0) policy_->observe(bucket.message_bytes, bucket.exchange_seconds);
  if (!policy_->config().budget || bucket.agreed_bytes == 0) return;
  const double spent = *policy_->config().cost->of_bytes(static_cast<double>(bucket.agreed_bytes));
  const double energy = price_ == 0 ? squared_norm(mean) : 0;  // one sweep in the first step that sends something
  price_ = policy_->next_price(price_, spent, energy, bucket.share);
}

}  // namespace tsq
