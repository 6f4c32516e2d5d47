// The policy that switching us on never makes training slower: which buckets travel compressed, by which exchange and
// at which level of a ladder, from what the ranks have measured. A pure function of sizes and times: no clock, no
// collective, no thread. Every rank hands it the same measurements of all ranks and gets the same plan.
//
// Note [What is measured]. The time of an exchange says little: it runs beside the backward pass, and encoding takes
// cores from it. What a plan changes of a step is its span: from when the step's first bucket is ready to when the last
// one is delivered. So plans are compared by their measured spans; the cost model (seconds = c0 + c1 * bytes by kind of
// exchange, seconds per element of each level) only tells which plans are worth a trial of a few steps.
//
// Note [First guess]. What dense steps over a slow link cost before anything is known is most of what a short run pays
// for this policy. So the link is looked at once before the first bucket (Steering::glance), and a bucket goes
// compressed from the first step on, at the finest level, where by that glance its exchange would take less than half
// the time, encoding included. Everything after that is decided by measured spans as usual, dense among the
// alternatives.
//
// Note [Regimes]. Spans measured while the link was another are worth nothing. The settled plan's exchange seconds are
// compared with those when it was chosen; where they have changed for three steps, what bytes cost is scaled by the
// same factor, and nothing else that is known of plans counts as measured: a new regime. The link is looked at again,
// as it is from time to time where buckets are compressed: an exchange that hides does not tell that the link got
// faster.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/exchange_kind.h"
#include "policy/cost.h"
#include "policy/step_timing.h"

namespace tsq {

/// How a bucket travels; level: of the ladder, 0 where dense.
struct Choice {
  ExchangeKind kind = ExchangeKind::kDense;
  uint32_t level = 0;
  friend bool operator==(const Choice&, const Choice&) = default;
};

/// By bucket, in the order of the step.
using Plan = std::vector<Choice>;

/// A bucket before anything is measured. Bytes: such as leave a rank (Traffic::wire_bytes), by level, expected.
struct BucketSizes {
  size_t numel = 0;
  double dense_bytes = 0;
  std::vector<double> all_gather_bytes = {}, sharded_bytes = {};
  bool in_parcels = false;  ///< all_gather: encoding and decoding run beside the exchange
};

struct NeverSlowerConfig {
  int world_size = 1;
  size_t levels = 1;                                           ///< of the ladder, finest first
  size_t usable = std::numeric_limits<size_t>::max();          ///< of them, until allow() says otherwise
  std::vector<ExchangeKind> kinds;                             ///< that may be used besides dense
  double max_error = std::numeric_limits<double>::infinity();  ///< of |left|^2 / |wanted|^2
  double min_gain = 0.04;                                      ///< share of a step that compression has to save
};

/// What is known of one plan, for people.
struct Alternative {
  Plan plan;
  double span = 0;  ///< seconds; see Note [What is measured]
  bool measured = false, barred = false;
};

struct PolicyReport {
  Plan plan;
  bool on_trial = false;
  std::vector<Alternative> alternatives;  ///< dense first, then by level
  size_t usable = 0;                      ///< levels that may be used
  double step = 0;                        ///< seconds from step to step
  uint64_t trials = 0, regimes = 0;
  struct Cost {
    double c0 = 0, c1 = 0;
    bool measured = false;
  } costs[kExchangeKinds];
  std::string reason;
};

class NeverSlower {
 public:
  explicit NeverSlower(NeverSlowerConfig config);

  /// What a glance at the link has shown, the same on all ranks: seconds = c0 + c1 * bytes of one all_gather. Counts
  /// until exchanges of gradients have been measured. Note [First guess].
  void expect(const Line& link);

  /// True if the link is to be looked at, before anything else: nothing is known of it, it has changed, or it was long
  /// ago.
  bool wants_glance() const { return !glanced_; }

  /// How a bucket of which nothing is measured travels.
  Choice first_guess(const BucketSizes& bucket) const;

  /// Other buckets from the next step on, by first guess, and what was known of buckets is forgotten; costs are kept.
  void start(std::vector<BucketSizes> buckets);

  const Plan& plan() const { return trial_ ? plans_[*trial_].plan : settled_; }

  /// Only the first so many levels (at least 1) may be used from the next decision on: what the others would do to the
  /// training is not known, or known to be too much.
  void allow(size_t levels);

  /// Steps to measure under plan() before decide().
  size_t window() const;

  /// True under a plan that is new: its first step is the moment to look at the error of a level.
  bool wants_error() const { return trial_.has_value() || first_window_; }

  /// `ranks`: what each rank measured in the window() steps; latency: seconds of the smallest all_gather, by rank.
  void decide(std::span<const std::vector<StepTiming>> ranks, std::span<const float> latency);

  PolicyReport report() const;

 private:
  struct Candidate {
    Plan plan;
    uint32_t level = 0;        // coarsest in it
    std::deque<double> spans;  // measured in this regime
    uint64_t measured_at = 0;  // step
    double exchange = 0;       // seconds of all its exchanges, when it was measured
    bool measured() const { return spans.size() >= 2; }
  };
  struct Level {
    std::optional<double> codec[kExchangeKinds];  // seconds per element, measured
    std::optional<double> error;                  // |left|^2 / |wanted|^2
    uint64_t error_at = 0;
  };

  void learn(const WindowSummary& s);
  bool drifted(const WindowSummary& s) const;
  void begin_regime(double exchange);
  void make_candidates();
  void add_candidate(const Plan& plan, uint32_t level);
  void refresh_candidates();
  Plan best_plan(uint32_t level) const;
  Line cost_of(ExchangeKind kind) const;
  double exchange_seconds(const BucketSizes& bucket, const Choice& c) const;
  double codec_seconds(const BucketSizes& bucket, const Choice& c) const;
  double bucket_seconds(const BucketSizes& bucket, const Choice& c) const;
  double model_span(const Plan& plan, std::optional<size_t> slow = {}) const;
  double span_of(const Candidate& c) const;
  double price_of(size_t candidate) const;
  bool barred(const Candidate& c) const;
  bool is_dense(const Plan& plan) const;
  double compressed_part(const Plan& plan) const;  // of the elements
  size_t settled_index() const;
  void choose();
  bool needs_dense(size_t best) const;
  void look_again();
  std::optional<size_t> due_for_retrial() const;
  std::string reason_of(size_t best) const;

  const NeverSlowerConfig config_;
  size_t usable_;
  std::optional<Line> glanced_, glanced_before_;
  uint64_t looked_at_ = 0, look_ = kFirstRetry;  // step, and steps to the next look
  std::vector<BucketSizes> buckets_;
  Plan settled_;
  std::vector<Candidate> plans_;  // 0: dense
  std::optional<size_t> trial_;
  std::unique_ptr<MeasuredCost> costs_[kExchangeKinds];  // null: of nothing like it was anything measured
  std::vector<Level> levels_;
  std::vector<double> ready_;  // by bucket
  double interval_ = 0, latency_ = 0;
  double reference_exchange_ = 0;  // of the settled plan, when it was settled
  uint64_t steps_ = 0, trials_ = 0, regimes_ = 0;
  uint64_t retry_ = kFirstRetry;
  double tolerance_ = kTolerance;  // of drift; grows with false alarms
  bool first_window_ = true, retrial_ = false;
  bool guessed_ = true;  // settled_ is a first guess
  Plan settled_before_;  // when the regime began
  uint64_t judged_ = 0;  // the last regime that was known for a false alarm
  std::string reason_ = "nothing measured yet";

  static constexpr uint64_t kFirstRetry = 100, kLastRetry = 3200;
  static constexpr double kTolerance = 1.4;
};

}  // namespace tsq
