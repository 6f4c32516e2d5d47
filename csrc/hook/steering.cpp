#include "hook/steering.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "common/checksum.h"
#include "common/error.h"
#include "exchange/sealed.h"

namespace tsq {

namespace {

// Of messages that show what the link is like: to the first that takes long enough to be told from noise and from what
// buffers on the way take at once.
constexpr size_t kGlances[] = {size_t{1} << 12, size_t{1} << 13, size_t{1} << 16, size_t{1} << 18, size_t{1} << 20};
constexpr double kLongEnough = 15e-3;

constexpr size_t kFields = sizeof(BucketTiming) / sizeof(float);
static_assert(kFields * sizeof(float) == sizeof(BucketTiming));

/// The same on all ranks, or they would soon wait for each other's collectives.
uint64_t digest_of(uint64_t agreements, size_t steps, const Plan& plan) {
  std::vector<uint64_t> facts = {agreements, steps};
  for (const Choice& c : plan) facts.push_back(static_cast<uint64_t>(c.kind)), facts.push_back(c.level);
  return checksum({reinterpret_cast<const uint8_t*>(facts.data()), 8 * facts.size()}, 0);
}

}  // namespace

Steering::Steering(const NeverSlowerConfig& config, Exchange& exchange, Clock clock)
    : config_(config),
      exchange_(exchange),
      clock_(std::move(clock)),
      policy_(config),
      allowed_(config.usable),
      levels_(config.levels) {
  publish();
}

/// A few collectives of at most a megabyte: 0.1 s in all over a link of 100 Mbit/s, 10 ms at 1 Gbit/s.
void Steering::glance() {
  struct Sample {
    double bytes = 0, seconds = 0;
  } first, last;
  for (const size_t size : kGlances) {
    const std::vector<uint8_t> mine(size);
    const double begin = clock_();
    all_gather_sealed(exchange_, mine, Counted::kYes);
    const auto took = static_cast<float>(clock_() - begin);
    last = {static_cast<double>(size) * (exchange_.size() - 1), least_of_ranks(took)};
    if (first.bytes == 0) first = last;
    if (last.seconds - first.seconds > kLongEnough) break;  // latency is in both
  }
  const double bytes = last.bytes - first.bytes, seconds = std::max(0.0, last.seconds - first.seconds);
  policy_.expect(bytes > 0 ? Line{first.seconds, seconds / bytes} : Line{0, last.seconds / last.bytes});
  publish();
}

/// Time of the rank that came last to a collective: the others have waited for it. The same on all ranks. Collective.
double Steering::least_of_ranks(float seconds) {
  const std::vector<uint8_t> all =
      all_gather_sealed(exchange_, {reinterpret_cast<const uint8_t*>(&seconds), sizeof seconds}, Counted::kNo);
  double least = std::numeric_limits<double>::infinity();
  for (size_t at = 0; at < all.size(); at += sizeof seconds)
    least = std::min(least, sane(load<float>(all.data() + at)));
  return least;
}

Choice Steering::next(std::span<const uint32_t> ids, const BucketSizes& sizes, double ready) {
  if (current_.empty() && !known_.empty() && window_.size() == policy_.window()) decide();
  if (policy_.wants_glance()) glance();
  if (current_.empty()) first_ready_ = ready;
  const size_t place = current_.size();
  current_.emplace_back(ids.begin(), ids.end());
  sizes_.push_back(sizes);
  const bool planned = place < known_.size() && known_[place] == current_.back();
  wants_error_ = planned && window_.empty() && policy_.wants_error();
  return planned ? policy_.plan()[place] : policy_.first_guess(sizes);  // another layout, until the step has shown it
}

void Steering::done(double ready, BucketTiming timing, bool last) {
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
  if (current_ == known_) {
    window_.push_back(std::move(step_));
  } else {  // the first step, or DDP has rebuilt its buckets; not measured: it touches memory for the first time
    known_ = current_;
    policy_.start(sizes_);
    window_.clear();
    publish();
  }
  step_ = {};
  current_.clear();
  sizes_.clear();
}

void Steering::decide() {
  const size_t world = static_cast<size_t>(exchange_.size()), buckets = known_.size();
  const size_t floats = 1 + window_.size() * (1 + kFields * buckets), bytes = 16 + 4 * floats;
  std::vector<uint8_t> mine(bytes);
  store<uint64_t>(mine.data(), digest_of(agreements_, window_.size(), policy_.plan()));
  store<uint64_t>(mine.data() + 8, std::min<uint64_t>(levels_, allowed_));
  uint8_t* at = mine.data() + 16;
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
  uint64_t allowed = levels_;
  for (size_t r = 0; r < world; ++r) {
    const uint8_t* from = all.data() + r * bytes;
    if (load<uint64_t>(from) != load<uint64_t>(mine.data()))
      throw std::runtime_error(concat("NeverSlower: rank ", r, " stands at another decision than rank ",
                                      exchange_.rank(), ": the ranks do not average the same buckets"));
    allowed = std::min(allowed, load<uint64_t>(from + 8));
    from += 16;
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
  policy_.allow(allowed);
  policy_.decide(ranks, latencies);
  ++agreements_;
  window_.clear();
  publish();
}

void Steering::restart() {
  window_.clear();
  last_end_ = 0;
}

void Steering::restart_with_one_level() {
  restart();
  known_.clear();
  levels_ = 1;
  policy_.allow(1);
  policy_.start({});
  publish();
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
