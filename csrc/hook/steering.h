// Between the averager and its policy: looks at the link before the first bucket, collects what this rank measures step
// by step, shares it with all ranks every few steps (one small all_gather, before a step's first bucket) and tells how
// each bucket travels.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "common/clock.h"
#include "exchange/exchange.h"
#include "policy/never_slower.h"

namespace tsq {

/// Worker thread only, but for report(). The ranks must make the same calls in the same order; only times may differ.
class Steering {
 public:
  Steering(const NeverSlowerConfig& config, Exchange& exchange, Clock clock);

  /// How the bucket travels that comes now. `ready`: when it was handed over, by the clock. Collective if this is the
  /// first bucket of all, or a step's first one and a window has ended (the link is looked at again where it changed).
  /// Throws what the exchange throws, and std::runtime_error if the ranks do not stand at the same decision.
  Choice next(std::span<const uint32_t> ids, const BucketSizes& sizes, double ready);

  /// True if this bucket is of the first step under a new plan: its compression error is wanted.
  bool wants_error() const { return wants_error_; }

  /// The bucket of the last next() is delivered. timing without ready and done; `last`: of the step.
  void done(double ready, BucketTiming timing, bool last);

  /// Forgets what was measured of the steps under way.
  void restart();

  /// Forgets what was measured of all buckets: other mechanisms, of one level.
  void restart_with_one_level();

  /// This rank is for using the first so many levels only; the least of all ranks counts from the next decision on. Any
  /// thread.
  void allow(size_t levels) { allowed_ = levels; }

  const NeverSlowerConfig& config() const { return config_; }
  PolicyReport report() const;

 private:
  void glance();
  double least_of_ranks(float seconds);
  void end_step();
  void decide();
  void publish();

  const NeverSlowerConfig config_;
  Exchange& exchange_;
  const Clock clock_;
  NeverSlower policy_;

  std::vector<std::vector<uint32_t>> known_, current_;  // the buckets' parameters: as planned for, and in this step
  std::vector<BucketSizes> sizes_;                      // of this step's buckets
  StepTiming step_;
  double first_ready_ = 0, last_end_ = 0;
  std::vector<StepTiming> window_;
  double latency_ = 0;  // of the last agreement
  uint64_t agreements_ = 0;
  std::atomic<uint64_t> allowed_;
  uint64_t levels_;  // that there are
  bool wants_error_ = false;

  mutable std::mutex mutex_;
  PolicyReport report_;  // guarded by mutex_
};

}  // namespace tsq
