// The object that c10d's Reducer calls: takes a bucket, queues it, returns a future at once. The whole main path hangs
// on it:
//
//   runHook(bucket) -> Pipeline (worker thread) -> Averager (send, exchange, receive) -> the bucket's own buffer ->
//   future
//
// Nothing here needs Python or its lock. A C++ training loop uses it as Python does: make_hook(), then
// reducer->register_comm_hook(std::make_unique<ReducerHook>(hook)).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <unordered_map>
#include <vector>

#include "hook/averager.h"
#include "hook/pipeline.h"
#include "hook/rotation.h"

namespace tsq {

struct HookParameter {
  std::string name;
  at::Tensor tensor;  ///< the parameter itself; the hook keeps its identity, not its memory
  std::string up;     ///< spec, worker -> owner
  std::string down;   ///< spec, owner -> everybody
  /// Specs of the coarser levels of a ladder, (up, down): Parameter::coarser.
  std::vector<std::pair<std::string, std::string>> coarser = {};
};

struct HookConfig {
  AveragerConfig averager;
  std::optional<PlannerConfig> smoothness;  ///< none: no plan of widths
  std::optional<RotationConfig> rotation;   ///< none: original coordinates
  std::string fingerprint;                  ///< whatever else the ranks must agree on, as text
};

class Hook {
 public:
  /// Compares parameters, specs and config with all ranks (collective), then starts the worker. Owns `exchange`.
  /// Throws ArgumentError naming what differs, or SpecError; then nothing has been started.
  Hook(const std::vector<HookParameter>& parameters, const HookConfig& config, std::unique_ptr<Exchange> exchange);

  /// Queues the bucket and returns the future of its mean, which is the bucket's own buffer. Microseconds; never
  /// throws: what goes wrong goes into the future, and so out of backward(). The last touch of the buffer is before the
  /// future completes.
  c10::intrusive_ptr<c10::ivalue::Future> run(c10d::GradBucket& bucket);

  /// Runs `task` between buckets on the worker thread and waits; for state. Not from a backward hook.
  void between_buckets(const std::function<void(Averager&)>& task);

  /// The same for a collective task. What it throws, but for an ArgumentError, which all ranks get alike, leaves the
  /// ranks out of step: later buckets are refused.
  void together(const std::function<void(Averager&)>& task);

  /// Multiplies all state, for a change of loss scale.
  void scale_state(double factor);

  /// Null if gradients are compressed in original coordinates. Between buckets only.
  Rotation* rotation() { return rotation_.get(); }

  /// Collective: switches compression on or off on all ranks, or throws on all if they disagree.
  void set_enabled(bool enabled);
  bool enabled() const { return enabled_; }

  /// Collective, between steps: new specs by parameter, (up, down); the same on all ranks or it throws on all.
  void set_specs(const std::vector<std::pair<std::string, std::string>>& specs);

  /// Finishes what is queued and stops the worker. Idempotent. Later buckets fail with a clear error.
  void close() { pipeline_.close(); }

  AveragerStats stats() const { return averager_.stats(); }
  std::vector<Watched> watched() const { return averager_.watched(); }
  std::optional<PolicyReport> policy() const { return averager_.policy(); }
  /// Takes effect with the next decision; any thread, also in the middle of a step.
  void allow_levels(size_t levels) { averager_.allow_levels(levels); }
  std::string error() const { return pipeline_.error(); }
  const std::vector<Parameter>& parameters() const { return averager_.parameters(); }
  int rank() { return averager_.exchange().rank(); }
  int world_size() { return averager_.exchange().size(); }

 private:
  void follow(const std::vector<HookParameter>& parameters, const PlannerConfig& config);
  void average(std::span<const uint32_t> ids, View buffer, const BucketPlace& place);
  std::vector<uint32_t> identify(c10d::GradBucket& bucket) const;

  std::unordered_map<const c10::TensorImpl*, uint32_t> numbers_;
  std::vector<at::Tensor> positions_;  // the parameters, if the plan looks at them
  Averager averager_;                  // worker thread only, but for stats()
  std::unique_ptr<Rotation> rotation_;
  std::atomic<bool> enabled_{true};
  Pipeline pipeline_;  // last: joined before anything above goes
};

/// Tells all hooks that the interpreter is about to end: from now on no future is completed. A daemon thread that waits
/// in backward() would wake up in a finalising interpreter, which ends it by unwinding through code that must not
/// throw.
void process_is_ending();

/// Hook over the dedicated group `group`. `timeout` bounds every collective.
std::shared_ptr<Hook> make_hook(const std::vector<HookParameter>& parameters, const HookConfig& config,
                                c10::intrusive_ptr<c10d::ProcessGroup> group, std::chrono::milliseconds timeout);

/// What the Reducer owns; shares the Hook with whoever watches it.
class ReducerHook final : public c10d::CppCommHookInterface<std::shared_ptr<Hook>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;
  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override { return state_->run(bucket); }
};

}  // namespace tsq
