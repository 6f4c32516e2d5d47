// CAT in the data path: all ranks get the same bits, whatever the buckets are; one price for all.
#include "hook/tuner.h"

#include "hook/ranks.h"

namespace tsq {
namespace {

using test::Buckets;
using test::ByRank;
using test::Cluster;
using test::ParameterSpec;

const std::vector<ParameterSpec> kModel = {{700, "EF21(TopK(ratio=0.5))"},
                                           {1500, "ErrorFeedback(SparseSign(ratio=0.5))"},
                                           {40, "Identity()"},
                                           {2000, "Direct(StochasticSparsifier(budget=0.5))"}};
const Buckets kOne = {{3, 2, 1, 0}}, kTwo = {{3, 2}, {1, 0}};

std::shared_ptr<const Cat> with(std::shared_ptr<CostModel> cost, std::optional<double> budget = {}) {
  return std::make_shared<Cat>(Cat::Config{.cost = std::move(cost), .budget = budget});
}

class TunerTest : public testing::TestWithParam<std::tuple<ExchangeKind, int>> {
 protected:
  Cluster cluster(std::shared_ptr<const Cat> policy) const {
    return {std::get<1>(GetParam()), DType::kFloat32, kModel,
            AveragerConfig{.exchange = std::get<0>(GetParam()), .seed = 3, .policy = std::move(policy)}};
  }
};

INSTANTIATE_TEST_SUITE_P(All, TunerTest,
                         testing::Combine(testing::Values(ExchangeKind::kAllGather, ExchangeKind::kSharded),
                                          testing::Values(2, 3, 4)));

TEST_P(TunerTest, SameBitsOnAllRanksWhateverTheBuckets) {
  const auto budget = with(std::make_shared<BitCost>(), 8 * 4000.0);
  for (const auto& policy : {with(std::make_shared<AffineCost>(100, 1, Unit::kBits)), budget}) {
    Cluster one = cluster(policy), two = cluster(policy);
    if (policy == budget)  // the first price is a sum over buckets
      for (Cluster* c : {&one, &two})
        for (const auto& averager : c->averagers) averager->tuner().set_price(1e-3);
    for (uint64_t step = 0; step < 6; ++step) {
      const ByRank a = one.step(kOne, step), b = two.step(kTwo, step);
      for (size_t rank = 0; rank < a.size(); ++rank)
        for (size_t id = 0; id < kModel.size(); ++id) {
          ASSERT_EQ(a[rank][id], a[0][id]) << step;
          ASSERT_EQ(a[rank][id], b[rank][id]) << step << " parameter " << id;
        }
      for (const auto& averager : two.averagers)
        ASSERT_EQ(averager->tuner().price(), one.averagers[0]->tuner().price()) << step;
    }
    if (policy == budget) {
      EXPECT_NE(one.averagers[0]->tuner().price(), 1e-3);
    }
  }
}

TEST_P(TunerTest, BytesFallAsTheyGetDearer) {
  uint64_t last = UINT64_MAX;
  for (const double c1 : {1e-3, 1.0, 1e3}) {
    Cluster c = cluster(with(std::make_shared<AffineCost>(100, c1, Unit::kBits)));
    for (uint64_t step = 0; step < 3; ++step) c.step(kOne, step);
    const uint64_t sent = c.averagers[0]->stats().traffic.wire_bytes;
    EXPECT_LT(sent, last);
    last = sent;
  }
}

// A message's fixed cost: of the whole model where costs are given (whatever the buckets), of its bucket where
// measured.
TEST(Tuner, AMessagePaysItsShareOfTheFixedCost) {
  const uint32_t first = 0;
  for (const bool measured : {false, true}) {
    const auto policy =
        measured ? with(std::make_shared<MeasuredCost>()) : with(std::make_shared<AffineCost>(1000, 1e-3, Unit::kBits));
    Tuner tuner(policy, {1000, 3000}, {});
    tuner.begin({&first, 1}, 2000);
    const double expected = policy->chooser(measured ? 0.5 : 0.25, 0, nullptr).utility(1, 1, 8);
    EXPECT_DOUBLE_EQ(tuner.chooser(0, 1000)->utility(1, 1, 8), expected) << measured;
    EXPECT_GT(expected, 1.5 * policy->chooser(1, 0, nullptr).utility(1, 1, 8));
  }
}

TEST(Tuner, WeightsAreThoseOfTheParameter) {
  const Weights given[] = {std::make_shared<const std::vector<double>>(4, 1.0),
                           std::make_shared<const std::vector<double>>(std::vector<double>{1, 0.75, 0.5, 0.25})};
  Tuner tuner(with(std::make_shared<AffineCost>(1, 1, Unit::kBits)), {4, 4}, {given[0], given[1]});
  for (const uint32_t id : {0u, 1u}) {
    tuner.begin({&id, 1}, 4);
    EXPECT_TRUE(std::ranges::equal(tuner.chooser(id, 4)->weights(0, 4), *given[id])) << id;
  }
}

TEST_P(TunerTest, EveryBucketIsASample) {
  const auto cost = std::make_shared<MeasuredCost>();
  Cluster c = cluster(with(cost));
  for (uint64_t step = 0; step < 4; ++step) c.step(kTwo, step);
  EXPECT_EQ(cost->samples(), 8u * static_cast<unsigned>(c.world()));  // the ranks of this process share it
  EXPECT_GT(cost->fit().c0 + cost->fit().c1, 0);
}

TEST(Tuner, ABudgetNeedsACostThatAllRanksKnow) {
  EXPECT_THROW(Tuner(with(std::make_shared<MeasuredCost>(), 5.0), {10}), ArgumentError);
  EXPECT_THROW(Tuner(with(std::make_shared<AffineCost>(1, 1, Unit::kBytes), 5.0), {10}), ArgumentError);
  EXPECT_NO_THROW(Tuner(with(std::make_shared<PacketCost>(PacketCost::Config{}), 5.0), {10}));
  EXPECT_EQ(Tuner(nullptr, {10}).chooser(0, 5), nullptr);
}

TEST_P(TunerTest, WeightsAreThoseOfTheElementsWhereverTheyTravel) {
  const std::vector<ParameterSpec> model = {{500, "Identity()"},
                                            {3000, "Direct(TopK(ratio=0.5))"},
                                            {3100, "Direct(StochasticSparsifier(budget=0.5))"},
                                            {3000, "Direct(TopK(ratio=0.5))"}};
  const auto weights = [](size_t n) {  // one in seven counts, and no part of a parameter begins at a multiple of seven
    auto out = std::make_shared<std::vector<double>>(n, 1e-9);
    for (size_t j = 0; j < n; j += 7) (*out)[j] = 1;
    return out;
  };
  AveragerConfig config{.exchange = std::get<0>(GetParam()), .seed = 3};
  config.policy = with(std::make_shared<AffineCost>(100, 1, Unit::kBits));
  config.weights = {nullptr, weights(3000), weights(3100), nullptr};
  Cluster c(std::get<1>(GetParam()), DType::kFloat32, model, config);
  for (uint64_t step = 0; step < 3; ++step) {
    const ByRank out = c.step({{3, 1}, {2, 0}}, step);
    for (size_t rank = 0; rank < out.size(); ++rank)
      for (size_t id = 0; id < model.size(); ++id) ASSERT_EQ(out[rank][id], out[0][id]);
    for (const size_t id : {1u, 2u, 3u}) {
      const float* const v = out[0][id].view().as<float>();
      size_t on = 0, off = 0;
      for (size_t j = 0; j < model[id].numel; ++j) (j % 7 ? off : on) += v[j] != 0;
      EXPECT_GT(on, 3u) << id;
      if (id == 3)
        EXPECT_GT(off, 20u);  // no weights: all alike
      else
        EXPECT_EQ(off, 0u) << id;
    }
  }
}

TEST(Tuner, WeightsOfAnotherModelAreRefused) {
  const auto policy = with(std::make_shared<AffineCost>(1, 1, Unit::kBits));
  const auto vector = [](std::vector<double> v) { return std::make_shared<const std::vector<double>>(std::move(v)); };
  EXPECT_NO_THROW(Tuner(policy, {2, 1}, {vector({1, 0.5}), nullptr}));
  EXPECT_THROW(Tuner(policy, {2, 1}, {vector({1, 0.5})}), ArgumentError);
  EXPECT_THROW(Tuner(policy, {2, 1}, {vector({1}), nullptr}), ArgumentError);
  for (const double bad : {0.0, -1.0, HUGE_VAL, double(NAN)})
    EXPECT_THROW(Tuner(policy, {2, 1}, {vector({1, bad}), nullptr}), ArgumentError) << bad;
}

TEST(Tuner, MeanOfMeasuredCostsIsTheFitOfAllSamples) {
  const auto group = std::make_shared<LoopbackGroup>(3);
  const MeasuredCost::Config config{.keep = 1};
  MeasuredCost all(config);
  std::vector<std::unique_ptr<MeasuredCost>> costs;
  for (int rank = 0; rank < 3; ++rank) {
    costs.push_back(std::make_unique<MeasuredCost>(config));
    for (int i = 0; i < 5 * rank; ++i) {  // rank 0 has seen nothing
      const double bytes = 1000.0 * (i + 3 * rank), seconds = 1e-3 + 1e-8 * bytes * (rank + i % 2);
      costs.back()->observe(bytes, seconds);
      all.observe(bytes, seconds);
    }
  }
  test::on_ranks(group, [&](int rank) {
    LoopbackExchange exchange(group, rank);
    MeasuredCost mean(config);
    mean.set_state(mean_of(costs[static_cast<size_t>(rank)]->state(), exchange));
    EXPECT_EQ(mean.samples(), 5u);  // 15 of three ranks
    EXPECT_NEAR(mean.fit().c0 / all.fit().c0, 1, 1e-12);
    EXPECT_NEAR(mean.fit().c1 / all.fit().c1, 1, 1e-12);
  });
  MeasuredCost untouched(config);
  test::on_ranks(group, [&](int rank) {
    LoopbackExchange exchange(group, rank);
    EXPECT_EQ(mean_of(untouched.state(), exchange).samples, 0);
  });
}

TEST(Tuner, PriceIsThatOfTheStepAndFollowsTheLossScale) {
  Tuner tuner(with(std::make_shared<BitCost>(), 800.0), {50, 50});
  const float mean[] = {3, 4};
  const ConstView view{mean, DType::kFloat32, 2};
  const uint32_t first[] = {1}, second[] = {0};
  tuner.begin(first, 50);
  tuner.learn({.agreed_bytes = 60}, view);
  tuner.begin(second, 50);
  tuner.learn({.agreed_bytes = 60}, view);
  EXPECT_EQ(tuner.price(), 50.0 / 800);  // of the next step
  tuner.begin(first, 50);
  tuner.learn({.agreed_bytes = 100}, view);
  EXPECT_EQ(tuner.price(), 50.0 / 800);  // exactly the budget was spent
  tuner.scale(2);
  EXPECT_EQ(tuner.price(), 200.0 / 800);
}

}  // namespace
}  // namespace tsq
