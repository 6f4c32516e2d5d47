// What ranks measure of their steps, and what a window of steps of all ranks comes to. No clock here.
#pragma once

#include <cstddef>
#include <deque>
#include <span>
#include <vector>

namespace tsq {

/// What one rank saw of a bucket in one step. Times count from when the step's first bucket was ready, in seconds.
struct BucketTiming {
  float ready = 0, done = 0;
  float exchange = 0;          ///< in collectives, waiting for slower ranks included
  float codec = 0;             ///< encoding and decoding
  float bytes = 0;             ///< that left this rank
  float wanted = 0, left = 0;  ///< squared norms of what was compressed and of what it left over; 0: not looked at
};

struct StepTiming {
  float interval = 0;  ///< since the end of the step before; 0: unknown
  std::vector<BucketTiming> buckets;
};

/// Medians over the steps of a window, of all ranks; of intervals the lower quartile, because what a program does
/// between steps (evaluation, checkpoints) is no part of one.
struct WindowSummary {
  double span = 0, interval = 0;
  std::vector<double> spans;  // by step
  struct Bucket {
    double ready = 0, exchange = 0, codec = 0, bytes = 0, wanted = 0, left = 0;
  };
  std::vector<Bucket> buckets;
  double exchange_total = 0, recent_exchange_total = 0;  // the latter: of the last kRecentSteps
};
constexpr size_t kRecentSteps = 3;  // that show a new regime

/// Without the first `skipped` steps (wanted and left: with them). ranks: all of the same number of steps, of `buckets`
/// buckets each. interval_before: what stands where no step knows its interval. O(ranks * steps * buckets).
WindowSummary summarise(std::span<const std::vector<StepTiming>> ranks, size_t buckets, size_t skipped,
                        double interval_before);

/// 0 for what is no positive finite number: it came from a peer.
double sane(float x);

/// 0 of nothing.
double median_of(std::deque<double> values);
/// The lower one; 0 of nothing.
double quartile_of(std::deque<double> values);

}  // namespace tsq
