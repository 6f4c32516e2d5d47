#include "hook/steering.h"

#include <algorithm>
#include <cstring>

#include "common/error.h"
#include "exchange/sealed.h"

namespace tsq {

namespace {

constexpr size_t kFields = sizeof(BucketTiming) / sizeof(float);
static_assert(kFields * sizeof(float) == sizeof(BucketTiming));

/// The same on all ranks, or they would soon wait for each other's collectives.
uint64_t digest_of(uint64_t agreements, size_t steps, const Plan& plan) {
  uint64_t hash = 1469598103934665603u;  // FNV-1a
  const auto mix = [&](uint64_t value) { hash = (hash ^ value) * 1099511628211u; };
  mix(agreements), mix(steps), mix(plan.size());
  for (const Choice& c : plan) mix(static_cast<uint64_t>(c.kind)), mix(c.level);
  return hash;
}

}  // namespace

Steering::Steering(const NeverSlowerConfig& config, Exchange& exchange, Clock clock)
    : config_(config), exchange_(exchange), clock_(std::move(clock)), policy_(config) {
  publish();
}

Choice Steering::next(std::span<const uint32_t> ids, double ready) {
  if (current_.empty()) {
    if (!known_.empty() && window_.size() == policy_.window()) decide();
    first_ready_ = ready;
  }
  const size_t place = current_.size();
  current_.emplace_back(ids.begin(), ids.end());
  const bool planned = place < known_.size() && known_[place] == current_.back();
  wants_error_ = planned && window_.empty() && policy_.wants_error();
  return planned ? policy_.plan()[place] : Choice{};  // a bucket of another layout: dense until the step has shown all
}

void Steering::done(const BucketSizes& sizes, double ready, BucketTiming timing, bool last) {
  sizes_.push_back(sizes);
  const double end = clock_();
  timing.ready = static_cast<float>(std::max(0.0, ready - first_ready_));
  timing.done = static_cast<float>(end - first_ready_);
  step_.buckets.push_back(timing);
  if (!last) return;
  step_.interval = last_end_ > 0 ? static_cast<float>(end - last_end_) : 0.0F;
  last_end_ = end;
  end_step();
}

void Steering::end_step() {
  if (current_ != known_) {  // the first step, or DDP has rebuilt its buckets
    known_ = current_;
    policy_.start(sizes_);
    window_.clear();
    publish();
  }
  window_.push_back(std::move(step_));
  step_ = {};
  current_.clear();
  sizes_.clear();
}

void Steering::decide() {
  const size_t world = static_cast<size_t>(exchange_.size()), buckets = known_.size();
  const size_t floats = 1 + window_.size() * (1 + kFields * buckets), bytes = 8 + 4 * floats;
  std::vector<uint8_t> mine(bytes);
  store<uint64_t>(mine.data(), digest_of(agreements_, window_.size(), policy_.plan()));
  uint8_t* at = mine.data() + 8;
  const auto put = [&](const void* values, size_t count) {
    std::memcpy(at, values, 4 * count);
    at += 4 * count;
  };
  const auto latency = static_cast<float>(latency_);
  put(&latency, 1);
  for (const StepTiming& step : window_) {
    put(&step.interval, 1);
    put(step.buckets.data(), kFields * buckets);
  }
  const double begin = clock_();
  const std::vector<uint8_t> all = all_gather_sealed(exchange_, mine, Counted::kNo);
  latency_ = clock_() - begin;

  std::vector<std::vector<StepTiming>> ranks(world, std::vector<StepTiming>(window_.size()));
  std::vector<float> latencies(world);
  for (size_t r = 0; r < world; ++r) {
    const uint8_t* from = all.data() + r * bytes;
    if (load<uint64_t>(from) != load<uint64_t>(mine.data()))
      throw std::runtime_error(concat("NeverSlower: rank ", r, " stands at another decision than rank ",
                                      exchange_.rank(), ": the ranks do not average the same buckets"));
    from += 8;
    const auto take = [&](void* values, size_t count) {
      std::memcpy(values, from, 4 * count);
      from += 4 * count;
    };
    take(&latencies[r], 1);
    for (StepTiming& step : ranks[r]) {
      take(&step.interval, 1);
      step.buckets.resize(buckets);
      take(step.buckets.data(), kFields * buckets);
    }
  }
  policy_.decide(ranks, latencies);
  ++agreements_;
  window_.clear();
  publish();
}

void Steering::restart(bool everything) {
  window_.clear();
  last_end_ = 0;
  if (everything) known_.clear(), policy_.start({}), publish();
}

void Steering::publish() {
  PolicyReport report = policy_.report();
  const std::lock_guard lock(mutex_);
  report_ = std::move(report);
}

PolicyReport Steering::report() const {
  const std::lock_guard lock(mutex_);
  return report_;
}

}  // namespace tsq
