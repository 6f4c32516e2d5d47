// The decision as a pure function: what it makes of times, and of nonsense in their place.
#include "policy/never_slower.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/error.h"

namespace tsq {
namespace {

constexpr size_t kNumel = 1'000'000;

NeverSlower policy_of(size_t levels, double min_gain = 0.04, std::optional<Line> glance = {},
                      double max_error = std::numeric_limits<double>::infinity()) {
  NeverSlower policy({.world_size = 2,
                      .levels = levels,
                      .kinds = {ExchangeKind::kAllGather},
                      .max_error = max_error,
                      .min_gain = min_gain});
  if (glance) policy.expect(*glance);
  BucketSizes b;
  b.numel = kNumel;
  b.dense_bytes = 4e6;
  for (size_t l = 0; l < levels; ++l) {
    b.all_gather_bytes.push_back(5e5 / static_cast<double>(l + 1));
    b.sharded_bytes.push_back(5e5 / static_cast<double>(l + 1));
  }
  policy.start({b, b});
  return policy;
}

/// Windows of two buckets, ready at 0 and `late` seconds, over a link of c1 seconds per byte.
void run(NeverSlower& policy, int windows, double c1, double codec, double late = 0.1, double error = 0) {
  for (int w = 0; w < windows; ++w) {
    StepTiming step{.interval = 0, .buckets = {}};
    double time = 0;
    for (size_t b = 0; b < 2; ++b) {
      const Choice& c = policy.plan()[b];
      const bool dense = c.kind == ExchangeKind::kDense;
      const double bytes = dense ? 4e6 : 5e5 / (c.level + 1), spent = dense ? 0 : codec;
      const double ready = b == 0 ? 0 : late, exchange = 1e-4 + c1 * bytes;
      time = std::max(time, ready) + spent + exchange;
      step.buckets.push_back({.ready = float(ready),
                              .done = float(time),
                              .exchange = float(exchange),
                              .codec = float(spent),
                              .bytes = float(bytes),
                              .wanted = dense ? 0.0F : 1.0F,
                              .left = float(error)});
    }
    step.interval = float(time + 0.2);
    const std::vector<StepTiming> rank(policy.window(), step);
    const std::vector<StepTiming> ranks[] = {rank, rank};
    const float latency[] = {1e-4F, 2e-4F};
    policy.decide(ranks, latency);
  }
}

bool dense(const NeverSlower& policy) {
  for (const Choice& c : policy.plan())
    if (c.kind != ExchangeKind::kDense) return false;
  return true;
}

TEST(NeverSlower, ComparesWhatWasMeasured) {
  NeverSlower slow = policy_of(1), fast = policy_of(1), hidden = policy_of(1);
  run(slow, 3, 1e-7, 0.001);
  EXPECT_FALSE(dense(slow));
  run(fast, 10, 1e-10, 0.001);
  EXPECT_TRUE(dense(fast));
  run(hidden, 3, 1e-7, 0.5);  // a codec that costs more than the link: tried, and left alone
  EXPECT_TRUE(dense(hidden));
  EXPECT_GE(hidden.report().trials, 1u);
}

TEST(NeverSlower, GuessesByTheGlance) {
  EXPECT_TRUE(dense(policy_of(2)));                           // no glance
  EXPECT_TRUE(dense(policy_of(2, 0.04, Line{1e-5, 2e-10})));  // 4 MB take 0.8 ms, encoding a million elements 1.5 ms
  const NeverSlower slow = policy_of(2, 0.04, Line{1e-4, 1e-7});
  for (const Choice& c : slow.plan()) EXPECT_EQ(c, (Choice{ExchangeKind::kAllGather, 0}));  // the finest level
  EXPECT_FALSE(slow.report().costs[1].measured);
  EXPECT_DOUBLE_EQ(slow.report().costs[1].c1, 1e-7);
}

TEST(NeverSlower, AGuessThatIsWrongIsPutRight) {
  NeverSlower tried = policy_of(1, 0.04, Line{1e-4, 1e-7});
  run(tried, 1, 1e-7, 0.5);  // encoding costs more than the link
  EXPECT_TRUE(dense(tried) && tried.report().on_trial);
  run(tried, 1, 1e-7, 0.5);
  EXPECT_TRUE(dense(tried) && !tried.report().on_trial);
  NeverSlower hidden = policy_of(1, 0.04, Line{1e-4, 1e-7});
  run(hidden, 8, 1e-7, 0.001, /*late=*/1.0);  // the first bucket has a second to travel in: it may as well be dense
  EXPECT_EQ(hidden.plan()[0].kind, ExchangeKind::kDense);
  EXPECT_EQ(hidden.plan()[1].kind, ExchangeKind::kAllGather);
}

TEST(NeverSlower, PausesBetweenStepsAreNoSteps) {
  NeverSlower policy = policy_of(1, 0.04, Line{1e-4, 1e-7});
  const auto step = [](double interval) {
    StepTiming s{.interval = float(interval), .buckets = {}};
    for (int b = 0; b < 2; ++b)
      s.buckets.push_back({.ready = 0.1F * b, .done = 0.15F, .exchange = 0.05F, .bytes = 5e5F});
    return s;
  };
  for (int w = 0; w < 20; ++w) {
    std::vector<StepTiming> rank;
    while (rank.size() < policy.window())
      rank.push_back(step(rank.size() % 2 ? 20 : 0.3));  // evaluates after every other
    const std::vector<StepTiming> ranks[] = {rank, rank};
    const float latency[] = {1e-4F, 1e-4F};
    policy.decide(ranks, latency);
    EXPECT_NEAR(policy.report().step, 0.3, 1e-6);
    EXPECT_FALSE(dense(policy));  // not tried either: by the model it would double the step
  }
}

TEST(NeverSlower, AGuessIsHeldToTheErrorBound) {
  NeverSlower policy = policy_of(1, 0.04, Line{1e-4, 1e-7}, /*max_error=*/0.05);
  ASSERT_TRUE(policy.wants_error());
  run(policy, 2, 1e-7, 0.001, 0.1, /*error=*/0.2);
  EXPECT_TRUE(dense(policy) && !policy.report().on_trial);
  EXPECT_TRUE(policy.report().alternatives[1].barred);
}

TEST(NeverSlower, ReportsWhatItKnows) {
  NeverSlower policy = policy_of(2);
  run(policy, 4, 1e-7, 0.001);
  const PolicyReport report = policy.report();
  ASSERT_GE(report.alternatives.size(), 3u);
  EXPECT_TRUE(report.alternatives[0].measured);
  EXPECT_NEAR(report.alternatives[0].span, 2 * (1e-4 + 0.4), 0.02);
  EXPECT_NEAR(report.costs[0].c1, 1e-7, 2e-9);
  EXPECT_TRUE(report.costs[1].measured);
  EXPECT_NE(report.reason.find("saves"), std::string::npos) << report.reason;
}

TEST(NeverSlower, ANewLinkIsANewRegime) {
  NeverSlower policy = policy_of(1);
  run(policy, 5, 1e-10, 0.005);
  EXPECT_TRUE(dense(policy));
  run(policy, 3, 1e-7, 0.005);
  EXPECT_FALSE(dense(policy));
  EXPECT_EQ(policy.report().regimes, 1u);
  run(policy, 3, 1e-10, 0.005);
  EXPECT_TRUE(dense(policy));
  EXPECT_EQ(policy.report().regimes, 2u);
}

TEST(NeverSlower, NonsenseFromAPeerDoesNoHarm) {
  NeverSlower policy = policy_of(2);
  const float bad[] = {NAN, INFINITY, -INFINITY, -1, 0, 1e30F};
  for (int round = 0; round < 60; ++round) {
    const float x = bad[round % 6];
    StepTiming step{.interval = x, .buckets = {2, BucketTiming{x, x, x, x, x, x, x}}};
    const std::vector<StepTiming> rank(policy.window(), step);
    const std::vector<StepTiming> ranks[] = {rank, rank};
    const float latency[] = {x, x};
    policy.decide(ranks, latency);
    EXPECT_EQ(policy.plan().size(), 2u);
  }
  run(policy, 40, 1e-7, 0.001);
  EXPECT_FALSE(dense(policy));
}

TEST(NeverSlower, RefusesWhatItCannotMean) {
  const auto with = [](auto set) {
    NeverSlowerConfig config;
    set(config);
    return NeverSlower(config);
  };
  EXPECT_THROW(with([](NeverSlowerConfig& c) { c.levels = 0; }), ArgumentError);
  EXPECT_THROW(with([](NeverSlowerConfig& c) { c.max_error = 0; }), ArgumentError);
  EXPECT_THROW(with([](NeverSlowerConfig& c) { c.min_gain = 1; }), ArgumentError);
  EXPECT_THROW(with([](NeverSlowerConfig& c) { c.min_gain = NAN; }), ArgumentError);
}

}  // namespace
}  // namespace tsq
