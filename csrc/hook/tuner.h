// A policy's place in the data path: choosers for the slices of a bucket, and what it learns from buckets that went by.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "common/dtype.h"
#include "exchange/exchange.h"
#include "policy/cat.h"

namespace tsq {

/// One caller at a time.
///
/// Nothing that it chooses by depends on how parameters are grouped into buckets (Note [Ownership]): fixed costs are
/// shared out over the model, and the price stays as it is for a step. But for MeasuredCost, which knows no
/// reproducible step: there the fixed cost is a bucket's, as it was measured.
class Tuner {
 public:
  /// Without a policy (null) nothing is chosen. `numels`: of the parameters; `weights`: of their elements, none or one
  /// each, where null is all alike. Throws ArgumentError if there is a budget and ranks cannot know what the others
  /// spent, and for weights that are not of their parameter.
  Tuner(std::shared_ptr<const Cat> policy, const std::vector<size_t>& numels, std::vector<Weights> weights = {});

  bool active() const { return policy_ != nullptr; }

  /// Before a bucket of these parameters, `numel` elements: if one of them was in an earlier bucket of the step, a new
  /// step begins.
  void begin(std::span<const uint32_t> ids, size_t numel);

  /// For a slice of so many elements of a parameter; null without a policy. Valid until the next call. It looks weights
  /// up by the slice's offset in the parameter, which is what EncodeKey::offset says.
  const EntryChooser* chooser(uint32_t parameter, size_t numel);

  /// What one bucket took.
  struct Bucket {
    uint64_t agreed_bytes = 0;  ///< of all ranks' messages, headers aside: the same on every rank
    double message_bytes = 0;   ///< of this rank's message, as padded
    double exchange_seconds = 0;
  };
  /// After it. `mean`: what was delivered, the same on every rank.
  void learn(const Bucket& bucket, ConstView mean);

  /// Of the next step, if one has ended: in squared gradient per unit of cost; the same on every rank. 0: none yet, or
  /// no budget.
  double price() const;
  void set_price(double price);
  /// Gradients are about to be `factor` times as large.
  void scale(double factor);

  /// What a MeasuredCost has learnt; null without one.
  MeasuredCost* measured() const { return policy_ ? policy_->measured() : nullptr; }

 private:
  std::shared_ptr<const Cat> policy_;
  std::vector<Weights> weights_;
  std::optional<CatChooser> chooser_;
  double price_ = 0;
  double spent_ = 0, energy_ = 0;  // of the step so far
  std::vector<bool> seen_;         // parameters of the step so far
  size_t model_numel_, bucket_numel_ = 0;
};

/// Collective: what all ranks have learnt together, each sample of weight 1 / size; the same on every rank.
MeasuredCost::State mean_of(const MeasuredCost::State& mine, Exchange& exchange);

}  // namespace tsq
