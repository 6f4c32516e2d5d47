// CAT, communication-aware tuning (Khirirat, Magnusson, Aytekin, Johansson 2021): in every step the number of entries
// with the most guaranteed descent per unit of communication cost; or, with a budget, the number at which one more
// entry is no longer worth its price. docs/cat.md.
#pragma once

#include <memory>
#include <optional>

#include "compressors/chooser.h"
#include "policy/cost.h"
#include "policy/selection.h"

namespace tsq {

/// What a step is good for: the most guaranteed descent per cost of the step itself, or of a run that it is a part of,
/// where what is not sent now has to be sent later. docs/cat.md.
enum class Horizon : uint8_t { kStep, kRun };

/// Of the elements of one vector, in (0, 1]: they are ranked and chosen by |w_j g_j|. Null: all alike.
using Weights = std::shared_ptr<const std::vector<double>>;

/// Throws ArgumentError, which begins with `name`, unless all are finite and positive.
void check_weights(const std::string& name, const Weights& weights);

/// The choice of one step. A value: cost and price do not change during its life.
class CatChooser final : public EntryChooser {
 public:
  struct Config {
    std::shared_ptr<const CostModel> cost = {};  ///< not a MeasuredCost: what that says is fixed by Cat::chooser
    double share = 1;                            ///< of a message's cost c0: the vector is this part of the message
    std::optional<double> price = {};            ///< in squared gradient per unit of cost; none: the best ratio
    Weights weights = {};
    Horizon horizon = Horizon::kStep;  ///< where there is no price
  };
  explicit CatChooser(Config config) : config_(std::move(config)) {}

  uint64_t largest(std::span<const float> g, const EntryCode& code) const override { return pick_largest(g, code); }
  uint64_t largest(std::span<const double> g, const EntryCode& code) const override { return pick_largest(g, code); }
  uint64_t signs(std::span<const float> g, const EntryCode& code) const override { return pick_signs(g, code); }
  uint64_t signs(std::span<const double> g, const EntryCode& code) const override { return pick_signs(g, code); }
  double threshold(std::span<const float> g, const EntryCode& code) const override { return pick_threshold(g, code); }
  double threshold(std::span<const double> g, const EntryCode& code) const override { return pick_threshold(g, code); }
  double utility(double gain, uint64_t entries, double payload_bits) const override;
  std::span<const double> weights(uint64_t offset, uint64_t n) const override;

 private:
  template <class S>
  uint64_t pick_largest(std::span<const S> g, const EntryCode& code) const;
  template <class S>
  uint64_t pick_signs(std::span<const S> g, const EntryCode& code) const;
  template <class S>
  double pick_threshold(std::span<const S> g, const EntryCode& code) const;

  /// The cost where an index takes what the index code takes at this many entries; 0: ceil(log2 n) bits.
  EntryCost cost_at(const EntryCode& code, double entries) const;
  /// What one more entry costs, in squared gradient.
  double price_of_entry(const EntryCost& cost) const;
  /// Of one step: the ratio. Of a run: the price per unit of cost at which sending everything, which gains `gain`, is
  /// just worth it.
  template <class S>
  Objective objective_of(const Profile<S>& profile, const EntryCost& cost, double gain) const;

  Config config_;
};

/// What a rank chooses by. Thread-safe as far as its cost model is.
class Cat {
 public:
  struct Config {
    std::shared_ptr<CostModel> cost = {};
    std::optional<double> budget =
        {};              ///< units of cost per step, all ranks and vectors together; none: the best ratio
    double speed = 0.5;  ///< how fast the price follows what was spent
    Weights weights = {};
    Horizon horizon = Horizon::kStep;
  };
  /// Throws ArgumentError unless there is a cost, a budget is positive and speed in (0, 1].
  explicit Cat(Config config);

  const Config& config() const { return config_; }

  /// For one vector, `share` of a message. `price` counts if there is a budget. `weights`: in place of the config's.
  CatChooser chooser(double share, double price, const Weights& weights = nullptr) const;

  /// The price after `spent` units of cost: E1's ascent lambda + rho (spent - budget), in its scale-free form lambda
  /// times exp(speed (spent / budget - share)), the exponent at most 1. `share`: how much of a step was sent. A price
  /// of 0 (none yet) becomes `energy` / (share budget), energy being a squared norm of what was sent. 0 without a
  /// budget.
  double next_price(double price, double spent, double energy, double share = 1) const;

  /// A message of `bytes` took `seconds`: for MeasuredCost.
  void observe(double bytes, double seconds) const;

  /// The cost where it is a measured one; else null.
  MeasuredCost* measured() const { return dynamic_cast<MeasuredCost*>(config_.cost.get()); }

 private:
  Config config_;
};

}  // namespace tsq
