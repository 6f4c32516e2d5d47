// The data path of one rank: bucket in, mean over all ranks out. Knows parameters, mechanisms and an exchange; no
// torch, no thread.
//
//   all_gather   send to everybody, receive W messages, average
//   sharded      send to each part's owner; the owner averages, compresses again, sends to everybody
//   dense        all-reduce of the bucket itself
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exchange/exchange.h"
#include "hook/layout.h"
#include "hook/parcel_stream.h"
#include "hook/planner.h"
#include "hook/recorder.h"
#include "hook/states.h"
#include "hook/steering.h"
#include "hook/transport.h"
#include "hook/tuner.h"
#include "mechanisms/section.h"

namespace tsq {

struct AveragerConfig {
  ExchangeKind exchange = ExchangeKind::kAllGather;
  uint64_t seed = 0;
  /// With DDP's find_unused_parameters: a parameter without a gradient in this step (all zero here) keeps its residual,
  /// because DDP throws the result away if no rank used it.
  bool hold_unused = false;
  std::shared_ptr<const Cat> policy = nullptr;  ///< null: every compressor sends what its spec says
  std::vector<Weights> weights = {};            ///< of the policy, by parameter: see Tuner
  /// What chooses how buckets travel, dense or by `exchange` (sharded: all_gather too, where receivers have no state);
  /// none: all by `exchange`, at level 0. Its world_size, levels and kinds are filled in.
  std::optional<NeverSlowerConfig> never_slower = {};
  Clock clock = steady_seconds;
  ParcelRule parcels = {};
};

/// Where a bucket stands in its step.
struct BucketPlace {
  double ready = 0;  ///< by the clock: when it was handed over
  bool last = true;  ///< of the step
};

/// One caller at a time; stats() and watched() from any thread.
class Averager {
 public:
  Averager(std::vector<Parameter> parameters, const AveragerConfig& config, std::unique_ptr<Exchange> exchange);

  /// buffer = mean over ranks of buffer. `ids`: the parameters in it, in order, without gaps. Collective. If it throws,
  /// the exchange must not be used any more, and either state is as before the call (to rounding) or torn() is true.
  void average(std::span<const uint32_t> ids, View buffer, const BucketPlace& place);
  void average(std::span<const uint32_t> ids, View buffer) { average(ids, buffer, {config_.clock(), true}); }

  /// While off, buckets travel by all-reduce and state rests. Takes effect with the next bucket; the same on all ranks.
  void set_enabled(bool enabled);

  /// Collective: from the next bucket on these mechanisms, by parameter, (up, down), without a ladder. State is carried
  /// over; what cannot be is owed and delivered with the next gradients (hook/checkpoint.h).
  void set_mechanisms(std::vector<std::pair<MechanismPtr, MechanismPtr>> mechanisms);

  /// From now on the widths of quantizers follow a plan; before the first bucket. The parameters must be plannable
  /// (Planner::make_plannable) and without a ladder, else it throws ArgumentError. The same on all ranks.
  void follow(std::unique_ptr<Planner> planner);
  /// Null if there is none. What it changes in parameters reaches them through plan().
  Planner* planner() { return planner_.get(); }
  /// Calls f(planner, parameters) and takes note of the widths that are then in force.
  template <class F>
  void plan(F f) {
    f(*planner_, parameters_);
    recorder_.plan(*planner_);
  }

  /// Multiplies all state, for a change of loss scale (state is in units of the scaled loss).
  void scale_state(double factor);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const AveragerConfig& config() const { return config_; }
  Exchange& exchange() { return *exchange_; }
  AveragerStats stats() const;

  /// True if a step broke off after some state had moved on.
  bool torn() const { return torn_; }
  States& states() {
    may_owe_.assign(parameters_.size(), kWorkers | kOwners);  // the caller may write
    return states_;
  }

  /// The first so many levels of the ladder may be used, by what this rank knows: see Steering::allow. Any thread.
  void allow_levels(size_t levels) {
    if (steering_) steering_->allow(levels);
  }

  /// What the policy thinks; none without one. Any thread.
  std::optional<PolicyReport> policy() const;

  std::vector<Watched> watched() const { return recorder_.watched(); }

  Tuner& tuner() { return tuner_; }

 private:
  /// A slice that was sent and may have to be taken back.
  struct Sent {
    const Piece* piece;
    bool owner;   ///< of the average, in the owner's state; else of the gradient, in the worker's
    ConstView x;  ///< what was compressed; stays as it is until the bucket is delivered
    std::vector<wire::Section> sections;
    std::vector<Bytes> payloads;
    std::vector<std::optional<double>> targets;
    bool changed_state;  ///< false: marked or held
  };

  const Mechanism& mechanism(const Piece& piece, bool owner) const {
    return parameters_[piece.parameter].mechanism(choice_.level, owner);
  }
  const Layout& checked_layout_of(std::span<const uint32_t> ids, ConstView buffer);
  BucketSizes sizes_of(const Layout& layout, DType dtype) const;
  void average_steered(const Layout& layout, View buffer, const BucketPlace& place);
  void average_as_chosen(const Layout& layout, View buffer);
  void owe_residuals(const Layout& layout, ConstView buffer);
  void make_steering();
  void look_at_mechanisms();
  const Layout& layout_of(std::span<const uint32_t> ids);
  size_t limit(const Shard& shard, bool owner) const;
  bool fixed(const Layout& layout, bool owner) const;
  StepKey key_of(const Piece& piece, bool owner) const;
  Tuner::Bucket spent() const;
  void inspect_all(const Layout& layout, ConstView buffer);
  wire::Header header_of(const Shard& shard, bool owner, DType dtype) const;
  size_t send_shard(const Shard& shard, ConstView buffer, MutableBytes out);
  std::vector<wire::Message> check_messages(std::span<const Bytes> messages, const Shard& shard, bool owner,
                                            DType dtype, int first_rank) const;
  wire::Message check_message(Bytes bytes, const Shard& shard, bool owner, DType dtype, int rank) const;
  /// True if sent_ from `first` on holds skipped slices and nothing else: such a message does not travel.
  bool all_skipped(size_t first) const;
  wire::Message skipped_message(const Shard& shard, bool owner) const;
  void send_piece(const Piece& piece, bool owner, Delivery delivery, ConstView x, wire::Writer& out);
  bool receive_piece(const Piece& piece, bool owner, std::span<const wire::Message> messages, View out);
  void pay(const Layout& layout, View buffer);
  void add_owed(View buffer, double sign);
  void settle(ConstView delivered);
  void take_back();
  void retract(const Sent& sent);
  void finish_step(const Layout& layout);
  void learn(const Tuner::Bucket& before, ConstView mean);
  void average_dense(View buffer);
  void average_all_gather(const Layout& layout, View buffer);
  /// With a plan of widths every parameter is one piece: its weights are shared out over the whole of it.
  bool in_parcels(const Layout& layout) const { return !layout.parcels.empty() && !planner_; }
  void average_parcels(const Layout& layout, View buffer);
  void find_steps(const Shard& parcel, ConstView buffer);
  void undo_marked(const Sent& sent);
  void undo_marked(const std::vector<bool>& marked);
  void average_sharded(const Layout& layout, View buffer);
  size_t average_own_shard(const Shard& shard, std::span<const Bytes> received, DType dtype, MutableBytes out);
  void deliver(const Shard& shard, std::span<const wire::Message> messages, bool averages, View buffer,
               size_t first_sent);

  std::vector<Parameter> parameters_;
  const AveragerConfig config_;
  std::unique_ptr<Exchange> exchange_;
  Transport transport_;
  States states_;
  Tuner tuner_;
  std::unique_ptr<Steering> steering_;  // null without a policy
  Choice choice_;                       // of the current bucket
  bool enabled_ = true;
  bool all_identity_ = true;
  bool torn_ = false;
  uint64_t sequence_ = 0;  // of compressed buckets: the step in their messages' headers
  static constexpr uint8_t kWorkers = 1, kOwners = 2;
  std::vector<uint8_t> may_owe_;    // by parameter: whose residuals may be other than zero
  std::vector<Delivery> delivery_;  // by parameter, of the current bucket
  std::vector<const Piece*> paid_;  // of the current bucket: what is owed went into these
  std::vector<Sent> sent_;          // of the current bucket, in the order of pieces
  std::vector<std::optional<float>>
      steps_;  // by parameter, of the current bucket: UniformStep's, where it is cut; empty: in one message
  std::map<std::vector<uint32_t>, Layout> layouts_;
  std::map<const Layout*, BucketSizes> sizes_;
  std::unique_ptr<Planner> planner_;  // or null
  std::vector<uint8_t> send_memory_, average_memory_, spare_memory_;
  Recorder recorder_;
};

}  // namespace tsq
