// NeverSlower over a simulated link: right choices, soon, the same on all ranks, and nothing lost on the way.
#include "hook/simulated.h"

namespace tsq {
namespace {

using test::kFast;
using test::kSlow;
using test::Simulated;
using test::SimulatedConfig;

const std::string kFour = "ErrorFeedback(Quantizer(bits=4))", kOne = "ErrorFeedback(Quantizer(bits=1))";

double dense_step(const SimulatedConfig& config, const test::Link& link) {
  Simulated job(config);
  job.link = link;
  for (const auto& averager : job.averagers) averager->set_enabled(false);
  return job.step();
}

TEST(Steering, SlowLinkCompressesFromTheFirstStep) {
  for (const int world : {2, 3, 4})
    for (const ExchangeKind exchange : {ExchangeKind::kAllGather, ExchangeKind::kSharded}) {
      const SimulatedConfig config{.world = world, .exchange = exchange};
      const double dense = dense_step(config, kSlow);
      Simulated job(config);
      job.link = kSlow;
      EXPECT_LT(job.step(), 0.75 * dense) << world;  // the glance included
      for (int i = 0; i < 10; ++i) EXPECT_LT(job.step(), 0.6 * dense) << world << " step " << i + 1;
      EXPECT_FALSE(job.dense()) << world;
    }
}

TEST(Steering, GlanceFindsTheRate) {
  for (const double c1 : {1e-5, 1e-7, 1e-8, 2e-10}) {  // 0.8 Mbit/s to 40 Gbit/s
    Simulated job({.world = 3});
    job.link = {1e-4, c1};
    job.step();
    const auto report = *job.averagers[0]->policy();
    EXPECT_NEAR(report.costs[static_cast<size_t>(ExchangeKind::kAllGather)].c1, c1, 0.02 * c1 + 1e-11);
    EXPECT_FALSE(report.costs[static_cast<size_t>(ExchangeKind::kAllGather)].measured);
  }
}

TEST(Steering, GlanceTellsLatencyFromRate) {
  Simulated job({});
  job.link = {0.05, 1e-8};  // a long way, 800 Mbit/s
  job.step();
  EXPECT_NEAR(job.averagers[0]->policy()->costs[static_cast<size_t>(ExchangeKind::kAllGather)].c1, 1e-8, 1e-9);
}

TEST(Steering, FastLinkStaysDense) {
  Simulated job({.codec = 0.02});
  double total = 0;
  for (int i = 0; i < 400; ++i) total += job.step();
  EXPECT_TRUE(job.dense());
  EXPECT_LT(total, 1.005 * 400 * 0.3);  // a step is 0.3 s; trials cost next to nothing
}

TEST(Steering, DenseStepsTeachThePlanOfWidths) {
  Simulated job({.ladder = {"ErrorFeedback(Quantizer(bits=2))"},
                 .codec = 0.02,
                 .planner = PlannerConfig{.warmup = 2, .interval = 5}});
  job.change = [](size_t, uint32_t id, test::Vector& v) {
    for (size_t i = 0; i < v.size(); ++i) v.set(i, v[i] * std::pow(16.0, id));
  };
  job.steps(20);
  EXPECT_TRUE(job.dense());
  for (const auto& averager : job.averagers)
    for (uint32_t id = 0; id < 3; ++id)
      EXPECT_EQ(averager->planner()->planned(id)->bits, job.averagers[0]->planner()->planned(id)->bits);
  EXPECT_GT(job.averagers[0]->planner()->planned(2)->bits, 1 + job.averagers[0]->planner()->planned(0)->bits);
}

TEST(Steering, ALadderHasNoPlanOfWidths) {
  EXPECT_THROW(Simulated({.ladder = {kFour, kOne}, .planner = PlannerConfig{}}), ArgumentError);
}

TEST(Steering, OneRankHasNoPolicy) {
  Simulated job({.world = 1, .sizes = {2000}});
  EXPECT_FALSE(job.averagers[0]->policy());
}

TEST(Steering, FollowsTheLinkWithin30Steps) {
  for (const ExchangeKind exchange : {ExchangeKind::kAllGather, ExchangeKind::kSharded})
    for (const int offset : {0, 1, 2, 3, 4, 5}) {  // of the change in a window
      Simulated job({.world = 3, .exchange = exchange, .codec = 0.02, .noise = 0.05});
      job.steps(30 + offset);
      EXPECT_TRUE(job.dense());
      job.link = kSlow;
      job.steps(30);
      EXPECT_FALSE(job.dense()) << offset;
      EXPECT_FALSE(job.on_trial()) << offset;
      job.link = kFast;
      job.steps(30);
      EXPECT_TRUE(job.dense()) << offset;
      EXPECT_FALSE(job.on_trial()) << offset;
    }
}

TEST(Steering, SeesAFasterLinkBehindAnExchangeThatDoesNotTell) {
  SimulatedConfig config{.ladder = {kOne}, .codec = 0.02};
  Simulated job(config);
  job.link = {0.03, 6e-6};  // dense: 0.6 s; 1 bit: 0.11 s, most of it starts of exchanges
  job.steps(40);
  EXPECT_FALSE(job.dense());
  job.link = {0.03, 1e-9};  // now dense is 0.09 s, and 1 bit that and its codec
  job.steps(160);
  EXPECT_TRUE(job.dense());
  EXPECT_FALSE(job.on_trial());
}

TEST(Steering, DenseWhereTheExchangeHides) {  // the first bucket travels while the others are computed
  Simulated job({.backward = 30, .sizes = {20000, 20000, 20000}});
  job.link = {1e-5, 4e-5};  // dense: 3.2 s of the 10 s per bucket
  job.steps(20);
  const Plan plan = job.plan();
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].kind, ExchangeKind::kDense);
  EXPECT_EQ(plan[1].kind, ExchangeKind::kDense);
  EXPECT_NE(plan[2].kind, ExchangeKind::kDense);  // the late one has nothing to hide behind
}

TEST(Steering, CoarserLevelsOnlyWhereTheyPay) {
  SimulatedConfig config{.ladder = {kFour, kOne}};
  Simulated slow(config), middle(config);
  slow.link = kSlow;
  slow.steps(30);
  EXPECT_EQ(slow.plan()[1], (Choice{ExchangeKind::kAllGather, 1}));
  middle.link = {1e-4, 1e-6};  // dense 0.08 s late, 4 bits 0.01
  middle.steps(30);
  EXPECT_EQ(middle.plan()[1], (Choice{ExchangeKind::kAllGather, 0}));
}

TEST(Steering, MaxErrorBarsLevels) {
  SimulatedConfig config{.ladder = {kFour, kOne}};
  config.policy.max_error = 0.1;  // 4 bits: 0.012; 1 bit: 0.36
  Simulated job(config);
  job.link = kSlow;
  job.steps(60);
  EXPECT_EQ(job.plan()[1], (Choice{ExchangeKind::kAllGather, 0}));
  const auto report = *job.averagers[0]->policy();
  EXPECT_TRUE(std::ranges::any_of(report.alternatives, [](const Alternative& a) { return a.barred; }));
}

TEST(Steering, LevelsCountOnceAllRanksAllowThem) {
  SimulatedConfig config{.world = 3, .ladder = {kFour, "ErrorFeedback(Quantizer(bits=2))", kOne}};
  config.policy.usable = 2;
  Simulated job(config);
  job.link = kSlow;
  const auto coarsest = [&] { return job.plan()[1].level; };
  job.steps(40);
  EXPECT_EQ(coarsest(), 1u);
  EXPECT_EQ(job.averagers[0]->policy()->usable, 2u);
  job.averagers[0]->allow_levels(3);
  job.averagers[2]->allow_levels(3);
  job.steps(40);
  EXPECT_EQ(coarsest(), 1u);  // rank 1 has said nothing
  job.averagers[1]->allow_levels(3);
  job.steps(40);
  EXPECT_EQ(coarsest(), 2u);
  job.averagers[2]->allow_levels(1);
  job.steps(13);  // the longest window and one step
  EXPECT_EQ(coarsest(), 0u);
  EXPECT_EQ(job.averagers[0]->policy()->usable, 1u);
  for (uint32_t id = 0; id < 3; ++id) EXPECT_NEAR(job.delivered(id) + job.owed(id), job.given(id), 0.05) << id;
}

TEST(Steering, AnotherSpecIsTheOnlyLevel) {
  SimulatedConfig config{.ladder = {kFour, kOne}};
  Simulated job(config);
  job.link = kSlow;
  job.steps(30);
  EXPECT_EQ(job.plan()[1].level, 1u);
  job.together([&](Averager& averager) {
    averager.set_mechanisms(std::vector(3, std::pair(parse_mechanism(kFour), parse_mechanism(kFour))));
  });
  for (const auto& averager : job.averagers) averager->allow_levels(2);
  job.steps(30);
  EXPECT_FALSE(job.dense());
  const auto report = *job.averagers[0]->policy();
  for (const Alternative& a : report.alternatives)
    for (const Choice& c : a.plan) EXPECT_EQ(c.level, 0u);
}

TEST(Steering, NoiseDoesNotMakeItFlap) {
  for (const double codec : {0.0, 0.01, 0.02, 0.04}) {  // around break-even: dense is 0.04 s late
    Simulated job({.codec = codec, .noise = 0.15});
    job.link = {1e-5, 5e-7};
    int changes = 0;
    Plan before;
    for (int i = 0; i < 600; ++i) {
      job.step();
      if (job.on_trial() || job.plan() == before) continue;
      ++changes;
      before = job.plan();
    }
    EXPECT_LE(changes, 5) << codec;  // the first one included
  }
}

TEST(Steering, NothingIsLostInSwitching) {
  for (const ExchangeKind exchange : {ExchangeKind::kAllGather, ExchangeKind::kSharded}) {
    Simulated job({.world = 3, .exchange = exchange, .ladder = {kFour, kOne}, .codec = 0.02});
    bool compressed = false;
    for (const auto& link : {kFast, kSlow, kFast, kSlow, kFast}) {
      job.link = link;
      job.steps(30);
      compressed = compressed || !job.dense();
      for (uint32_t id = 0; id < 3; ++id) {
        EXPECT_NEAR(job.delivered(id) + job.owed(id), job.given(id), 0.05) << id;
        if (job.dense()) {
          EXPECT_EQ(job.owed(id), 0.0) << id;
        }
      }
    }
    EXPECT_TRUE(compressed);
  }
}

TEST(Steering, DebtsWaitForAFiniteStep) {
  Simulated job({});
  job.link = kSlow;
  job.steps(20);
  ASSERT_FALSE(job.dense());
  const double owed = job.owed(1);
  ASSERT_NE(owed, 0.0);
  job.link = kFast;
  bool poison = true;
  job.change = [&](size_t rank, uint32_t id, test::Vector& v) {
    if (poison && rank == 1 && id == 1) v.set(7, std::numeric_limits<double>::infinity());
  };
  job.steps(30);
  EXPECT_TRUE(job.dense());
  EXPECT_NEAR(job.owed(1), owed, 1e-3);  // every step had an Inf: nothing was delivered
  poison = false;
  job.step();
  EXPECT_EQ(job.owed(1), 0.0);
}

TEST(Steering, OffIsDenseAndRests) {
  Simulated job({});
  job.link = kSlow;
  job.steps(20);
  const double owed = job.owed(1);
  for (const auto& a : job.averagers) a->set_enabled(false);
  const auto dense_before = job.averagers[0]->stats().dense_calls;
  job.steps(10);
  EXPECT_EQ(job.averagers[0]->stats().dense_calls - dense_before, 30u);
  EXPECT_EQ(job.owed(1), owed);
  for (const auto& a : job.averagers) a->set_enabled(true);
  job.steps(10);
  EXPECT_NE(job.owed(1), owed);
  EXPECT_FALSE(job.dense());
}

TEST(Steering, LaddersMustShareTheirState) {
  EXPECT_THROW(Simulated({.ladder = {kFour, "Direct(Quantizer(bits=4))"}}), ArgumentError);
  EXPECT_THROW(Simulated({.ladder = {"EF21(Quantizer(bits=4), momentum=0.1)"}}), ArgumentError);
  EXPECT_NO_THROW(Simulated({.ladder = {"EF21(Quantizer(bits=4))", "EF21(Quantizer(bits=2))"}}));
}

}  // namespace
}  // namespace tsq
