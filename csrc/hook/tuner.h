// A policy's place in the data path: choosers for the slices of a bucket, and what it learns from buckets that went by.
#pragma once

#include <memory>
#include <optional>

#include "common/dtype.h"
#include "policy/cat.h"

namespace tsq {

/// One caller at a time.
class Tuner {
 public:
  /// Without a policy (null) nothing is chosen. Throws ArgumentError if there is a budget and ranks cannot know what
  /// the others spent.
  explicit Tuner(std::shared_ptr<const Cat> policy);

  bool active() const { return policy_ != nullptr; }

  /// For a slice that is `share` of its message; null without a policy. Valid until the next call.
  const EntryChooser* chooser(double share);

  /// What one bucket took.
  struct Bucket {
    uint64_t agreed_bytes = 0;  ///< of all ranks' messages: the same on every rank
    double message_bytes = 0;   ///< of this rank's message, as padded
    double exchange_seconds = 0;
    double share = 1;  ///< the bucket's part of the model
  };
  /// `mean`: what was delivered, the same on every rank.
  void learn(const Bucket& bucket, ConstView mean);

  /// In squared gradient per unit of cost; the same on every rank. 0: none yet, or no budget.
  double price() const { return price_; }
  void set_price(double price) { price_ = price; }
  /// Gradients are about to be `factor` times as large.
  void scale(double factor) { price_ *= factor * factor; }

 private:
  std::shared_ptr<const Cat> policy_;
  std::optional<CatChooser> chooser_;
  double price_ = 0;
};

}  // namespace tsq
