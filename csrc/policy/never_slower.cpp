#include "policy/never_slower.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/error.h"

namespace tsq {

namespace {

constexpr size_t kFirstWindow = 2, kSteadyWindow = 6, kLongestWindow = 12, kSureTrial = 2, kCloseTrial = 5;
constexpr size_t kDiscarded = 1;  // of a trial: memory is touched for the first time, residuals are paid
constexpr size_t kKeptSpans = 12;
constexpr double kSureGain = 0.2;       // of a step: too much to be noise
constexpr double kLevelGain = 0.01;     // of a step that each coarser level has to save
constexpr double kPartGain = 0.005;     // of a step that compressing all has to save over leaving dense what hides
constexpr double kStay = 0.02;          // of a step by which another plan has to be better than the settled one
constexpr double kLeastBytes = 0.1;     // share of an exchange's time that its bytes are taken to have at least
constexpr double kHopeless = 0.5;       // times a step: what no error of the model makes up for
constexpr double kExploration = 0.005;  // share of time that trials may cost in the long run
constexpr double kForget = 0.9;         // MeasuredCost::Config::keep
constexpr double kFirstGuess = 0.5;     // of the time of a dense exchange
constexpr double kFirstCodec = 1.5e-9;  // seconds per element and direction until something was measured
constexpr double kHiding = 1.5;         // of what is to hide: if it did not, measuring would not tell that it was this
constexpr double kFaster = 3;           // times: what two glances at one link do not differ by
constexpr double kEnds = 0.2;           // of parcels: the first ones' encoding, the last one's decoding
constexpr double kErrorLife = 1000;     // steps until a level with too large an error may be tried again
constexpr double kCollectives[kExchangeKinds] = {1, 2, 4};  // lengths that depend on data travel first

size_t index_of(ExchangeKind kind) { return static_cast<size_t>(kind); }

}  // namespace

NeverSlower::NeverSlower(NeverSlowerConfig config)
    : config_(std::move(config)),
      usable_(std::clamp<size_t>(config_.usable, 1, std::max<size_t>(1, config_.levels))),
      levels_(config_.levels) {
  if (config_.levels == 0) throw ArgumentError("NeverSlower: ladder: expected at least one spec, got none");
  if (!(config_.max_error > 0))
    throw ArgumentError(concat("NeverSlower: max_error: expected a positive number, got ", config_.max_error));
  if (!(config_.min_gain >= 0 && config_.min_gain < 1))
    throw ArgumentError(concat("NeverSlower: min_gain: expected a number in [0, 1), got ", config_.min_gain));
}

void NeverSlower::expect(const Line& link) {
  const bool faster = glanced_before_ && kFaster * link.c1 < glanced_before_->c1;
  glanced_ = link;
  glanced_before_.reset();
  if (faster) {  // what was measured of plans and exchanges that are not in use was of another link
    for (Candidate& c : plans_)
      if (c.plan != settled_) c.spans.clear();
    for (size_t k = 0; k < kExchangeKinds; ++k)
      if (std::none_of(settled_.begin(), settled_.end(), [&](const Choice& c) { return index_of(c.kind) == k; }))
        costs_[k].reset();
  }
  if (!plans_.empty()) return;
  reason_ = link.c1 > 0 ? concat("first guess: a glance at the link saw ", std::round(8e-6 / link.c1), " Mbit/s")
                        : "first guess: a glance at the link saw no limit";
}

void NeverSlower::start(std::vector<BucketSizes> buckets) {
  buckets_ = std::move(buckets);
  settled_.clear();
  for (const BucketSizes& bucket : buckets_) settled_.push_back(first_guess(bucket));
  plans_.clear();
  trial_.reset();
  ready_.assign(buckets_.size(), 0.0);
  first_window_ = guessed_ = true;
}

void NeverSlower::allow(size_t levels) {
  const auto before = static_cast<uint32_t>(usable_);
  usable_ = std::clamp<size_t>(levels, 1, levels_.size());
  if (plans_.empty()) return;  // the first decision makes them
  for (uint32_t level = before; level < usable_; ++level) add_candidate(best_plan(level), level);
}

size_t NeverSlower::window() const {
  if (first_window_) return kFirstWindow;
  if (!trial_) {  // an agreement should cost no more than kExploration of the steps that it is about
    const double steps = interval_ > 0 ? latency_ / (kExploration * interval_) : 0;
    return std::clamp(static_cast<size_t>(steps), kSteadyWindow, kLongestWindow);
  }
  const double gain = span_of(plans_[settled_index()]) - span_of(plans_[*trial_]);
  return kDiscarded + (std::abs(gain) > kSureGain * interval_ ? kSureTrial : kCloseTrial);
}

// ---- what was measured

void NeverSlower::learn(const WindowSummary& s) {
  const Plan& measured = plan();
  std::vector<std::pair<double, double>> codec(levels_.size() * kExchangeKinds);  // seconds, elements
  std::vector<std::pair<double, double>> error(levels_.size());                   // left, wanted
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const Choice& c = measured[b];
    auto& cost = costs_[index_of(c.kind)];
    if (!cost) cost = std::make_unique<MeasuredCost>(MeasuredCost::Config{.prior = cost_of(c.kind), .keep = kForget});
    if (s.buckets[b].exchange > 0 && s.buckets[b].bytes > 0) cost->observe(s.buckets[b].bytes, s.buckets[b].exchange);
    ready_[b] = s.buckets[b].ready;
    if (c.kind == ExchangeKind::kDense) continue;
    auto& [seconds, elements] = codec[c.level * kExchangeKinds + index_of(c.kind)];
    seconds += s.buckets[b].codec, elements += static_cast<double>(buckets_[b].numel);
    error[c.level].first += s.buckets[b].left, error[c.level].second += s.buckets[b].wanted;
  }
  for (size_t k = 0; k < kExchangeKinds; ++k)  // buckets of one size would leave open what a byte costs
    if (latency_ > 0 &&
        std::any_of(measured.begin(), measured.end(), [&](const Choice& c) { return index_of(c.kind) == k; }))
      costs_[k]->observe(0, latency_ * kCollectives[k]);
  for (size_t l = 0; l < levels_.size(); ++l) {
    for (size_t k = 0; k < kExchangeKinds; ++k)
      if (const auto& [seconds, elements] = codec[l * kExchangeKinds + k]; elements > 0)
        levels_[l].codec[k] = seconds / elements;
    if (error[l].second > 0) levels_[l].error = error[l].first / error[l].second, levels_[l].error_at = steps_;
  }
}

bool NeverSlower::drifted(const WindowSummary& s) const {
  const double now = s.recent_exchange_total, before = reference_exchange_;
  if (std::abs(now - before) < kStay * interval_) return false;
  return now > before * tolerance_ || before > now * tolerance_;
}

void NeverSlower::begin_regime(double exchange) {
  ++regimes_;
  // What changed is taken to be the rate: what a byte costs. A start too cheap is put right by a trial, one too dear
  // would never be tried.
  double starts = 0;
  for (const Choice& c : settled_) starts += cost_of(c.kind).c0;
  const auto of_bytes = [&](double seconds) { return std::max(seconds - starts, kLeastBytes * seconds); };
  const double factor = of_bytes(exchange) / of_bytes(reference_exchange_);
  glanced_.reset();  // of another link
  looked_at_ = steps_, look_ = kFirstRetry;
  for (auto& cost : costs_) {  // what was measured is from now on where the next samples begin
    if (!cost) continue;
    const Line line = cost->fit();
    if (line.c0 + line.c1 > 0 && std::isfinite(factor) && factor > 0)
      cost =
          std::make_unique<MeasuredCost>(MeasuredCost::Config{.prior = {line.c0, line.c1 * factor}, .keep = kForget});
  }
}

// ---- what plans would cost

Line NeverSlower::cost_of(ExchangeKind kind) const {
  const size_t k = index_of(kind);
  if (costs_[k]) return costs_[k]->fit();
  for (size_t other = 0; other < kExchangeKinds; ++other) {  // the same link: other collectives, the same bytes
    const Line line = costs_[other] ? costs_[other]->fit() : Line{};
    if (line.c0 + line.c1 <= 0) continue;
    // Seconds beside a backward pass are seconds of the cores too. What was seen of the idle link bounds what its bytes
    // cost: a kind of exchange that looks too dear is never tried.
    const double c1 = glanced_ ? std::min(line.c1, glanced_->c1) : line.c1;
    return {line.c0 * kCollectives[k] / kCollectives[other], c1};
  }
  if (glanced_) return {glanced_->c0 * kCollectives[k], glanced_->c1};
  return MeasuredCost::Config{}.prior;
}

double NeverSlower::exchange_seconds(const BucketSizes& bucket, const Choice& c) const {
  const double bytes = c.kind == ExchangeKind::kDense       ? bucket.dense_bytes
                       : c.kind == ExchangeKind::kAllGather ? bucket.all_gather_bytes[c.level]
                                                            : bucket.sharded_bytes[c.level];
  const Line line = cost_of(c.kind);
  return line.c0 + line.c1 * bytes;
}

double NeverSlower::codec_seconds(const BucketSizes& bucket, const Choice& c) const {
  if (c.kind == ExchangeKind::kDense) return 0;
  double each = kFirstCodec;
  if (const auto& known = levels_[c.level].codec[index_of(c.kind)]) each = *known;
  return each * static_cast<double>(bucket.numel);
}

double NeverSlower::bucket_seconds(const BucketSizes& bucket, const Choice& c) const {
  const double codec = codec_seconds(bucket, c), exchange = exchange_seconds(bucket, c);
  if (c.kind != ExchangeKind::kAllGather || !bucket.in_parcels) return codec + exchange;
  return std::max(codec, exchange) + kEnds * std::min(codec, exchange);
}

/// `slow`: a bucket taken to travel kHiding times as long as the model says.
double NeverSlower::model_span(const Plan& plan, std::optional<size_t> slow) const {
  double time = 0;
  for (size_t b = 0; b < plan.size(); ++b)  // one worker, first come, first served
    time = std::max(time, ready_[b]) + (b == slow ? kHiding : 1.0) * bucket_seconds(buckets_[b], plan[b]);
  return time;
}

double NeverSlower::span_of(const Candidate& c) const {
  if (c.measured()) return median_of(c.spans);
  const Candidate& base = plans_[settled_index()];
  const double missed = base.measured() ? median_of(base.spans) - model_span(base.plan) : 0;
  return std::max(0.0, model_span(c.plan) + missed);
}

double NeverSlower::price_of(size_t candidate) const {
  const Candidate& c = plans_[candidate];
  double share = is_dense(c.plan) ? 0.0 : config_.min_gain + kLevelGain * c.level + kPartGain * compressed_part(c.plan);
  if (c.plan == settled_ && !guessed_) share -= kStay;
  return span_of(c) + share * interval_;
}

bool NeverSlower::barred(const Candidate& c) const {
  return std::any_of(c.plan.begin(), c.plan.end(), [&](const Choice& choice) {
    if (choice.kind == ExchangeKind::kDense) return false;
    if (choice.level >= usable_) return true;
    const Level& level = levels_[choice.level];
    return level.error && *level.error > config_.max_error && static_cast<double>(steps_ - level.error_at) < kErrorLife;
  });
}

double NeverSlower::compressed_part(const Plan& plan) const {
  double compressed = 0, all = 0;
  for (size_t b = 0; b < plan.size(); ++b) {
    const auto numel = static_cast<double>(buckets_[b].numel);
    all += numel;
    if (plan[b].kind != ExchangeKind::kDense) compressed += numel;
  }
  return all > 0 ? compressed / all : 0;
}

bool NeverSlower::is_dense(const Plan& plan) const {
  return std::all_of(plan.begin(), plan.end(), [](const Choice& c) { return c.kind == ExchangeKind::kDense; });
}

// ---- which plans there are

Choice NeverSlower::first_guess(const BucketSizes& bucket) const {
  Choice best;
  if (!glanced_) return best;
  double least = kFirstGuess * exchange_seconds(bucket, best);
  for (const ExchangeKind kind : config_.kinds) {
    const Choice c{kind, 0};
    const double seconds = bucket_seconds(bucket, c);
    if (seconds < least) least = seconds, best = c;
  }
  return best;
}

Plan NeverSlower::best_plan(uint32_t level) const {
  Plan plan(buckets_.size());
  for (size_t b = 0; b < plan.size(); ++b) {
    double least = exchange_seconds(buckets_[b], plan[b]);
    for (const ExchangeKind kind : config_.kinds) {
      const Choice c{kind, level};
      const double seconds = bucket_seconds(buckets_[b], c);
      if (seconds < least) least = seconds, plan[b] = c;
    }
  }
  // What hides behind the backward pass may as well travel dense: it costs no core and no precision.
  const double allowed = model_span(plan) + 0.002 * interval_;
  for (size_t b = 0; b < plan.size(); ++b) {
    const Choice before = plan[b];
    if (before.kind == ExchangeKind::kDense) continue;
    plan[b] = Choice{};
    if (model_span(plan, b) > allowed) plan[b] = before;
  }
  return plan;
}

void NeverSlower::make_candidates() {
  plans_.clear();
  add_candidate(Plan(buckets_.size()), 0);
  for (uint32_t level = 0; level < usable_; ++level) add_candidate(best_plan(level), level);
  uint32_t coarsest = 0;
  for (const Choice& c : settled_) coarsest = std::max(coarsest, c.level);
  add_candidate(settled_, coarsest);
}

void NeverSlower::add_candidate(const Plan& plan, uint32_t level) {
  if (std::none_of(plans_.begin(), plans_.end(), [&](const Candidate& c) { return c.plan == plan; }))
    plans_.push_back({.plan = plan, .level = level, .spans = {}, .measured_at = 0});
}

/// What a trial has taught of costs may make a better plan of a level that was not tried yet.
void NeverSlower::refresh_candidates() {
  for (Candidate& c : plans_) {
    if (c.measured() || is_dense(c.plan) || c.plan == settled_) continue;
    Plan plan = best_plan(c.level);
    if (std::none_of(plans_.begin(), plans_.end(), [&](const Candidate& other) { return other.plan == plan; }))
      c.plan = std::move(plan);
  }
}

size_t NeverSlower::settled_index() const {
  const auto found = std::find_if(plans_.begin(), plans_.end(), [&](const Candidate& c) { return c.plan == settled_; });
  return static_cast<size_t>(found - plans_.begin());
}

// ---- the decision

void NeverSlower::decide(std::span<const std::vector<StepTiming>> ranks, std::span<const float> latency) {
  steps_ += ranks[0].size();
  latency_ = std::numeric_limits<double>::infinity();
  for (const float seconds : latency) latency_ = std::min(latency_, sane(seconds));
  latency_ = std::min(latency_, 1e3);
  const size_t steps = ranks[0].size();
  WindowSummary s = summarise(ranks, buckets_.size(), trial_ ? kDiscarded : 0, interval_);
  interval_ = s.interval;
  const bool fresh = first_window_, drift = !fresh && !trial_ && drifted(s);
  first_window_ = false;
  if (drift) {
    s = summarise(ranks, buckets_.size(), steps - std::min(steps, kRecentSteps),
                  interval_);  // those before belong to the old regime
    interval_ = s.interval;
    begin_regime(s.exchange_total);
  }
  learn(s);
  if (fresh || drift) make_candidates();
  Candidate& measured = plans_[trial_ ? *trial_ : settled_index()];
  measured.spans.insert(measured.spans.end(), s.spans.begin(), s.spans.end());
  while (measured.spans.size() > kKeptSpans) measured.spans.pop_front();
  measured.measured_at = steps_;
  measured.exchange = s.exchange_total;
  if (fresh || drift) reference_exchange_ = measured.exchange, settled_before_ = settled_;
  if (trial_) refresh_candidates();
  if (!trial_ && !fresh && !drift) tolerance_ = std::max(kTolerance, tolerance_ * 0.97);
  choose();
}

void NeverSlower::choose() {
  const bool was_trial = trial_.has_value(), retrial = retrial_;
  trial_.reset();
  size_t best = plans_.size();
  for (size_t i = 0; i < plans_.size(); ++i)
    if (!barred(plans_[i]) && (best == plans_.size() || price_of(i) < price_of(best))) best = i;
  reason_ = reason_of(best);
  if (!plans_[best].measured()) {
    trial_ = best;
    ++trials_;
    return;
  }
  if (needs_dense(best)) {
    trial_ = 0;
    ++trials_;
    return;
  }
  const bool moved = !(plans_[best].plan == settled_);
  settled_ = plans_[best].plan;
  guessed_ = false;
  if (moved) reference_exchange_ = plans_[best].exchange;
  if (regimes_ != judged_ && settled_ == settled_before_)
    tolerance_ = std::min(4.0, tolerance_ * 1.5);  // a false alarm
  judged_ = regimes_;
  retrial_ = false;
  if (moved || (was_trial && !retrial)) retry_ = kFirstRetry;
  if (was_trial) return;
  if (const auto again = due_for_retrial()) {
    retry_ = std::min(kLastRetry, 2 * retry_);
    plans_[*again].spans.clear();
    trial_ = again;
    retrial_ = true;
    ++trials_;
  } else if (!is_dense(settled_) && steps_ - looked_at_ >= look_) {
    look_again();
  }
}

void NeverSlower::look_again() {
  glanced_before_ = glanced_;
  glanced_.reset();
  looked_at_ = steps_;
  look_ = std::min(kLastRetry, 2 * look_);
}

/// True if `best` compresses and dense, which it has to beat, is only estimated and not hopeless by far.
bool NeverSlower::needs_dense(size_t best) const {
  return !is_dense(plans_[best].plan) && !plans_[0].measured() &&
         span_of(plans_[0]) - span_of(plans_[best]) < kHopeless * interval_;
}

/// The best of the other plans, if it was measured long ago: the time that its trial may cost, spread over the steps
/// since then, stays below kExploration.
std::optional<size_t> NeverSlower::due_for_retrial() const {
  std::optional<size_t> best;
  for (size_t i = 0; i < plans_.size(); ++i)
    if (!(plans_[i].plan == settled_) && !barred(plans_[i]) && (!best || price_of(i) < price_of(*best))) best = i;
  if (!best || interval_ <= 0) return std::nullopt;
  const double extra =
      std::max(0.0, span_of(plans_[*best]) - span_of(plans_[settled_index()])) / interval_;  // steps lost per step
  if (extra > kHopeless)
    return std::nullopt;  // no noise makes up for that; a new link shows in the settled plan's exchange
  const double pause = std::max(static_cast<double>(retry_), extra * (kDiscarded + kCloseTrial) / kExploration);
  if (static_cast<double>(steps_ - plans_[*best].measured_at) < pause) return std::nullopt;
  return best;
}

}  // namespace tsq
