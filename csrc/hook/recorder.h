// What can be seen of the averager from any thread while it works.
#pragma once

#include <map>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "exchange/exchange.h"
#include "hook/planner.h"
#include "hook/states.h"

namespace tsq {

struct AveragerStats {
  uint64_t calls = 0;        ///< buckets averaged
  uint64_t dense_calls = 0;  ///< of these, by all-reduce
  uint64_t dense_bytes = 0;  ///< what a ring all-reduce of the same buckets sends from one rank
  uint64_t non_finite = 0;   ///< parameters (or parts) delivered as NaN because a rank had an Inf or NaN
  uint64_t state_bytes = 0;
  uint64_t buffer_bytes = 0;       ///< memory for messages and averages
  uint64_t sent = 0;               ///< slices of parameters that this rank sent, ...
  uint64_t skipped = 0;            ///< ... and of these, such as took no payload
  std::map<int, uint64_t> levels;  ///< of the mechanisms that have some: how often each was sent
  double encode_seconds = 0, exchange_seconds = 0, decode_seconds = 0;
  Traffic traffic;
};

/// What can be watched of one parameter. Squared norms, 0 where the mechanism has nothing of the kind.
struct Watched {
  uint64_t sent = 0, skipped = 0;         ///< slices of gradients
  uint64_t up_bytes = 0, down_bytes = 0;  ///< payloads that this rank made of it
  std::map<int, uint64_t> levels;
  double gradient = 0;  ///< |x|^2
  double wanted = 0;    ///< |e + x|^2 or |x - h|^2: what was compressed
  double left = 0;      ///< |e|^2 or |x - h|^2 after: what compression left over
  double bits = 0;      ///< average width where a plan gives one, else 0; and
  double weight = 1;    ///< what an error costs there, relative to the mean over all planned parameters
};

/// Written by one thread, read by any.
class Recorder {
 public:
  explicit Recorder(size_t parameters, Clock clock = steady_seconds) : clock_(std::move(clock)), watched_(parameters) {}

  /// Without traffic, which the exchange counts.
  AveragerStats stats() const;

  /// By parameter; of the last step in which it was looked at (every kWatchInterval steps), sums over its slices.
  std::vector<Watched> watched() const;
  static constexpr uint64_t kWatchInterval = 50;

  void bucket(bool dense, uint64_t dense_bytes);
  void non_finite();
  void state_bytes(uint64_t bytes);
  void buffer_bytes(uint64_t bytes);

  /// A slice that was sent; level: below 0 if there is none to count.
  void sent(const Piece& piece, bool owner, uint64_t bytes, int level);

  /// The widths of a plan.
  void plan(const Planner& planner);

  /// The norms of a worker's slice around a send, in the steps in which they are looked at: every kWatchInterval, and
  /// `now`.
  void watch(const Piece& piece, ConstView x, const States& states, bool before, bool now = false);

  /// Of an exchange, besides what it was waited for: beside other work.
  void hidden(double seconds);

  /// Seconds so far: (encoding and decoding, exchanging with what was hidden).
  std::pair<double, double> seconds() const;

  /// Of these parameters, as last looked at: (sum of Watched::wanted, sum of Watched::left).
  std::pair<double, double> compression(std::span<const uint32_t> ids) const;

  /// Adds the time of its own life to one of the seconds.
  class Timer {
   public:
    Timer(Recorder& recorder, double AveragerStats::*total) : recorder_(recorder), total_(total) {}
    ~Timer();
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    Recorder& recorder_;
    double AveragerStats::*const total_;
    const double start_ = recorder_.clock_();
  };
  Timer encoding() { return {*this, &AveragerStats::encode_seconds}; }
  Timer exchanging() { return {*this, &AveragerStats::exchange_seconds}; }
  Timer decoding() { return {*this, &AveragerStats::decode_seconds}; }

 private:
  const Clock clock_;
  mutable std::mutex mutex_;
  AveragerStats stats_;
  double hidden_seconds_ = 0;
  std::vector<Watched> watched_;
};

}  // namespace tsq
