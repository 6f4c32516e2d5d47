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
