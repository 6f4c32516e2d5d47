// Bit widths of a network's parameters by running smoothness: what of a bucket's budget goes where, planned anew every
// so many steps. Every rank plans alike without a word, because the plan is made of nothing but delivered averages.
//
// A parameter is planned if its mechanism's compressor is a Quantizer; its width, or average width, in the spec is what
// it adds to the budget. Parameters of the same spec share one budget. The plan gives each an average width, and each
// of its runs a weight with which the sender distributes that (compressors/mixed_quantizer.h).
//
// Knows no torch, no thread. One caller at a time.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "hook/layout.h"
#include "policy/widths.h"
#include "smoothness/running.h"

namespace tsq {

struct PlannerConfig {
  RunningKind kind = RunningKind::kSecondMoment;
  Metric metric = Metric::kSgd;
  double decay = 0.95;
  double floor = 1e-3;     ///< estimates below this share of their mean count as it
  uint64_t warmup = 5;     ///< steps before the first plan
  uint64_t interval = 20;  ///< steps between plans
};

class Planner {
 public:
  /// Where a parameter's values are now; asked for by kSecant only.
  using Position = std::function<ConstView(uint32_t)>;

  /// Throws ArgumentError if a number is out of range or no parameter can be planned. `parameters` as make_plannable()
  /// left them.
  Planner(const PlannerConfig& config, const std::vector<Parameter>& parameters, Position position = {});

  /// Turns whole widths of quantizers into averages, so that they can be planned: granularity and format of what is
  /// sent are then those of a plan, whatever it says.
  static void make_plannable(std::vector<Parameter>& parameters);

  const PlannerConfig& config() const { return config_; }

  /// Before the mechanisms are used for a bucket: where a step begins in which a plan is due, puts its mechanisms into
  /// `parameters`. True if it did. A step begins with a parameter that has been seen since the last beginning.
  bool begin(std::span<const uint32_t> ids, std::vector<Parameter>& parameters);

  /// What was delivered for a bucket. A parameter with an Inf or NaN in it is not looked at.
  void observe(const Layout& layout, ConstView delivered);

  /// EncodeKey::weights of a slice; empty where there is no plan yet.
  std::span<const double> weights(const Piece& piece) const;

  /// After a change of spec: the plan is of these from now on; estimates are kept where the runs are the same.
  void adopt(std::vector<Parameter>& parameters);

  void scale(double factor) { running_.scale(factor); }

  /// kGiven: RunningSmoothness::give for parameter `id`; nothing if it is not planned.
  void give(uint32_t id, ConstView diagonal);

  /// Average width now, and mean weight relative to the mean over all planned parameters; none: not planned.
  struct Planned {
    double bits = 0, weight = 1;
  };
  std::optional<Planned> planned(uint32_t id) const;

  /// For checkpoints: the steps begun, and per planned parameter (bits, costs in force, estimates) as one vector of
  /// doubles by its number. The same on every rank.
  struct Saved {
    uint64_t steps = 0;
    std::vector<std::pair<uint32_t, std::vector<double>>> parameters;
  };
  Saved state() const;
  /// Throws ArgumentError, with nothing changed, if it is of another model. Puts the saved plan into `parameters`.
  void load(const Saved& saved, std::vector<Parameter>& parameters);

 private:
  struct One {
    uint32_t id = 0;
    std::string up, down;                     ///< specs that the plan varies
    double average_up = 0, average_down = 0;  ///< 0: that direction is no quantizer's
    double bits_up = 0, bits_down = 0;        ///< in force
    size_t run = 0;
    WidthLimits limits_up, limits_down;
    std::vector<double> costs;  ///< in force; empty: none
  };

  void find_planned(const std::vector<Parameter>& parameters);
  void plan();
  void share(bool down);
  void apply(std::vector<Parameter>& parameters) const;

  PlannerConfig config_;
  Position position_;
  RunningSmoothness running_;
  std::vector<One> planned_;
  std::vector<int> index_;  ///< by parameter: into planned_, or -1
  std::vector<bool> seen_;
  uint64_t steps_ = 0;
};

}  // namespace tsq
