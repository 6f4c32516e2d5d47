// Averages: all ranks get the same bits, and they are the mean within what the codec loses.
#include "hook/averager.h"

#include "hook/ranks.h"

namespace tsq {
namespace {

using test::Buckets;
using test::ByRank;
using test::Cluster;
using test::ParameterSpec;
using test::Vector;

/// Odd sizes; small ones exempt, as the hook's default policy has it.
std::vector<ParameterSpec> mixed_model() {
  return {{0, "Identity()"},
          {1, "Identity()"},
          {3, "Identity()"},
          {31, "Identity()"},
          {255, "Quantizer(bits=8)"},
          {256, "ErrorFeedback(Quantizer(bits=4))"},
          {257, "ErrorFeedback(Quantizer(bits=2))"},
          {1000, "Quantizer(bits=4, block=1024)"},
          {2049, "ErrorFeedback(Quantizer(bits=4))"},
          {5000, "ErrorFeedback(Quantizer(bits=3, block=512))"}};
}

const Buckets kBuckets = {{9, 8, 7, 6}, {5, 4, 3, 2, 1, 0}, {}};

class AveragerTest : public testing::TestWithParam<std::tuple<ExchangeKind, int, DType>> {
 protected:
  const ExchangeKind kind = std::get<0>(GetParam());
  const int world = std::get<1>(GetParam());
  const DType dtype = std::get<2>(GetParam());
  const AveragerConfig config{.exchange = kind, .seed = 3};
};

INSTANTIATE_TEST_SUITE_P(All, AveragerTest,
                         testing::Combine(testing::Values(ExchangeKind::kDense, ExchangeKind::kAllGather,
                                                          ExchangeKind::kSharded),
                                          testing::Values(1, 2, 3, 4), testing::ValuesIn(test::kAllDTypes)),
                         [](const auto& info) {
                           return concat(name_of(std::get<0>(info.param)), "_", std::get<1>(info.param), "_",
                                         name_of(std::get<2>(info.param)));
                         });

TEST_P(AveragerTest, AllRanksGetTheSameBitsInEveryStep) {
  Cluster cluster(world, dtype, mixed_model(), config);
  for (uint64_t step = 0; step < 5; ++step) {
    const ByRank out = cluster.step(kBuckets, step);
    for (size_t rank = 0; rank < out.size(); ++rank)
      for (size_t id = 0; id < out[0].size(); ++id) {
        ASSERT_EQ(out[rank][id], out[0][id]) << "step " << step << " rank " << rank << " parameter " << id;
        ASSERT_TRUE(std::isfinite(test::max_abs(out[0][id].view())));
      }
  }
}

TEST_P(AveragerTest, SparseMessagesAreTheMeanOfWhatWasSent) {
  // Down: Identity, so that what arrives is the mean of the workers' messages.
  Cluster cluster(world, dtype, {{4000, "TopK(k=7)", "Identity()"}, {300, "Identity()"}, {2, "TopK(k=1)"}}, config);
  for (uint64_t step = 0; step < 3; ++step) {
    const ByRank out = cluster.step({{2, 1, 0}}, step);
    for (const auto& of_rank : out) ASSERT_EQ(of_rank, out[0]);
    if (kind == ExchangeKind::kDense || world == 1) continue;
    size_t sent = 0;
    for (size_t i = 0; i < 4000; ++i) sent += out[0][0][i] != 0;
    const size_t pieces = kind == ExchangeKind::kSharded ? static_cast<size_t>(world) : 1;
    EXPECT_GE(sent, 7 * pieces);  // K is of a section: of each piece in the sharded exchange
    EXPECT_LE(sent, 7 * pieces * static_cast<size_t>(world));
  }
}

TEST_P(AveragerTest, MeanIsThatOfTheGradientsWithinTheCodecsError) {
  std::vector<ParameterSpec> model = mixed_model();
  for (ParameterSpec& p : model)
    if (p.numel > 31) p.up = p.down = "Quantizer(bits=6)";
  Cluster cluster(world, dtype, model, config);
  const ByRank gradients = cluster.gradients(0), out = cluster.step(kBuckets, gradients);
  const bool exact = kind == ExchangeKind::kDense || world == 1;
  for (size_t id = 0; id < model.size(); ++id) {
    double size = 0;
    for (const auto& of_rank : gradients) size += test::max_abs(of_rank[id].view()) / world;
    const double rounding = 2 * (world + 2) * test::epsilon(dtype) * size;
    const double codec = exact || model[id].numel <= 31 ? 0 : size / 31 * (kind == ExchangeKind::kSharded ? 2.04 : 1.0);
    for (size_t i = 0; i < model[id].numel; ++i) {
      double mean = 0;
      for (const auto& of_rank : gradients) mean += of_rank[id][i] / world;
      ASSERT_NEAR(out[0][id][i], mean, codec + rounding) << "parameter " << id << " element " << i;
    }
  }
}

TEST_P(AveragerTest, ExemptParametersAreTheExactMeanInRankOrder) {
  Cluster cluster(world, dtype, mixed_model(), config);
  const ByRank gradients = cluster.gradients(1), out = cluster.step(kBuckets, gradients);
  for (uint32_t id = 0; id < 4; ++id) {
    Vector expected(dtype, cluster.model[id].numel);
    for (size_t i = 0; i < expected.size(); ++i) {
      double wide = 0;
      float narrow = 0;
      for (const auto& of_rank : gradients) {
        wide += kind == ExchangeKind::kDense ? of_rank[id][i] * (1.0 / world) : of_rank[id][i];
        const auto x = static_cast<float>(of_rank[id][i]);
        narrow += kind == ExchangeKind::kDense ? x * static_cast<float>(1.0 / world) : x;
      }
      if (kind != ExchangeKind::kDense) wide /= world, narrow /= static_cast<float>(world);
      expected.set(i, dtype == DType::kFloat64 ? wide : narrow);
    }
    EXPECT_EQ(test::max_difference(out[0][id].view(), expected.view()), 0.0) << id;
  }
}

TEST_P(AveragerTest, CountsWhatItDoes) {
  Cluster cluster(world, dtype, mixed_model(), config);
  cluster.step(kBuckets, 0);
  const AveragerStats stats = cluster.averagers[0]->stats();
  const bool dense = kind == ExchangeKind::kDense || world == 1;
  EXPECT_EQ(stats.calls, 3u);
  EXPECT_EQ(stats.dense_calls, dense ? 3u : 0u);
  EXPECT_EQ(stats.non_finite, 0u);
  const size_t numel = 0 + 1 + 3 + 31 + 255 + 256 + 257 + 1000 + 2049 + 5000;
  if (world > 1) {
    EXPECT_NEAR(static_cast<double>(stats.dense_bytes), 2.0 * numel * size_of(dtype) * (world - 1) / world, 3);
  }
  if (dense) {
    EXPECT_EQ(stats.traffic.collectives, world == 1 ? 0u : 2u);  // the empty bucket needs none
  } else {
    EXPECT_EQ(stats.traffic.collectives, kind == ExchangeKind::kSharded ? 6u : 3u);
    EXPECT_LT(stats.traffic.handed_bytes, numel * size_of(dtype));
  }
  uint64_t state = 0;
  for (const StateRef& ref : cluster.averagers[0]->states().all()) state += ref.view.numel * size_of(ref.view.dtype);
  EXPECT_EQ(stats.state_bytes, state);
}

TEST(Averager, IdentityEverywhereIsThePlainAllReduce) {
  for (const ExchangeKind kind : {ExchangeKind::kAllGather, ExchangeKind::kSharded}) {
    Cluster compressed(3, DType::kFloat32, {{500, "Identity()"}, {7, "ErrorFeedback(Identity())"}}, {.exchange = kind});
    Cluster dense(3, DType::kFloat32, {{500, "Identity()"}, {7, "Identity()"}}, {.exchange = ExchangeKind::kDense});
    EXPECT_EQ(compressed.step({{0, 1}}, 0), dense.step({{0, 1}}, 0));
    EXPECT_EQ(compressed.averagers[0]->stats().dense_calls, 1u);
  }
}

TEST(Averager, SeedChangesTheDitherAndNothingElse) {
  const auto run = [](uint64_t seed) {
    Cluster cluster(2, DType::kFloat32, {{900, "Quantizer(bits=4)"}},
                    {.exchange = ExchangeKind::kSharded, .seed = seed});
    return cluster.step({{0}}, 0);
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(Averager, ParametersDoNotShareTheirDither) {
  Cluster cluster(2, DType::kFloat32, {{900, "Quantizer(bits=2)"}, {900, "Quantizer(bits=2)"}},
                  {.exchange = ExchangeKind::kAllGather});
  ByRank gradients = cluster.gradients(0);
  for (auto& of_rank : gradients) of_rank[1] = of_rank[0];
  const ByRank out = cluster.step({{0, 1}}, gradients);
  EXPECT_NE(out[0][0], out[0][1]);
}

TEST(Averager, RefusesBucketsThatAreNotTheModels) {
  Cluster cluster(1, DType::kFloat32, {{5, "Identity()"}, {6, "Identity()"}}, {});
  Averager& averager = *cluster.averagers[0];
  const std::vector<uint32_t> both = {0, 1}, unknown = {0, 2};
  EXPECT_THROW(averager.average(unknown, Vector(DType::kFloat32, 11).view()), ArgumentError);
  EXPECT_THROW(averager.average(both, Vector(DType::kFloat32, 10).view()), ArgumentError);
  EXPECT_THROW(averager.average(both, Vector(DType::kFloat32, 12).view()), ArgumentError);
  EXPECT_NO_THROW(averager.average(both, Vector(DType::kFloat32, 11).view()));
}

}  // namespace
}  // namespace tsq
