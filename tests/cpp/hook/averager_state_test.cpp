// What the averager remembers: conservation, independence of the buckets, switching off, holding, rescaling.
#include <cstring>

#include "hook/ranks.h"

namespace tsq {
namespace {

using test::Buckets;
using test::ByRank;
using test::Cluster;
using test::ParameterSpec;
using test::Vector;

std::vector<ParameterSpec> model() {
  return {{700, "ErrorFeedback(Quantizer(bits=2))"},
          {5, "Identity()"},
          {2500, "ErrorFeedback(Quantizer(bits=4, block=512))", "ErrorFeedback(Quantizer(bits=3))"},
          {256, "ErrorFeedback(Quantizer(bits=1))"},
          {1030, "ErrorFeedback(Quantizer(bits=3, levels='unbiased'))"},
          {1500, "ErrorFeedback(TopK(ratio=0.1))"},  // payloads whose length depends on the data
          {520, "ErrorFeedback(Sign())", "ErrorFeedback(Ternary())"}};
}

const Buckets kOneBucket = {{0, 1, 2, 3, 4, 5, 6}}, kSeveral = {{4, 5, 3}, {1}, {2, 6, 0}};

class AveragerState : public testing::TestWithParam<std::tuple<ExchangeKind, int>> {
 protected:
  const ExchangeKind kind = std::get<0>(GetParam());
  const int world = std::get<1>(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, AveragerState,
                         testing::Combine(testing::Values(ExchangeKind::kAllGather, ExchangeKind::kSharded),
                                          testing::Values(2, 3, 4)),
                         [](const auto& info) {
                           return concat(name_of(std::get<0>(info.param)), "_", std::get<1>(info.param));
                         });

TEST_P(AveragerState, NothingIsLost) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    constexpr int kSteps = 20;
    Cluster cluster(world, dtype, model(), {.exchange = kind});
    std::vector<std::vector<double>> given, delivered;
    std::vector<double> size(model().size());
    for (const ParameterSpec& p : model()) given.emplace_back(p.numel), delivered.emplace_back(p.numel);
    for (uint64_t step = 0; step < kSteps; ++step) {
      const ByRank gradients = cluster.gradients(step), out = cluster.step(kOneBucket, gradients);
      for (uint32_t id = 0; id < given.size(); ++id) {
        for (size_t i = 0; i < given[id].size(); ++i) {
          delivered[id][i] += out[0][id][i];
          for (const auto& of_rank : gradients) given[id][i] += of_rank[id][i] / world;
        }
        for (int r = 0; r < world; ++r)
          size[id] = std::max(size[id], test::max_abs(gradients[static_cast<size_t>(r)][id].view()) +
                                            test::max_abs(cluster.residual(r, id).view()));
        size[id] = std::max(size[id], test::max_abs(cluster.owner_residual(id).view()));
      }
    }
    for (uint32_t id = 0; id < given.size(); ++id) {
      const Vector owed_by_owner = cluster.owner_residual(id);
      for (size_t i = 0; i < given[id].size(); ++i) {
        double total = delivered[id][i] + owed_by_owner[i];
        for (int r = 0; r < world; ++r) {
          const Vector e = cluster.residual(r, id);
          if (e.size()) total += e[i] / world;
        }
        ASSERT_NEAR(total, given[id][i], 10 * kSteps * test::epsilon(dtype) * size[id])
            << name_of(dtype) << ' ' << id << ' ' << i;
        if (i > 600) i += 40;  // residual() copies: a sample is enough
      }
      if (kind == ExchangeKind::kSharded && id != 1) {
        EXPECT_GT(test::max_abs(owed_by_owner.view()), 0.0);
      }
    }
  }
}

TEST_P(AveragerState, BelongsToParametersNotToBuckets) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    Cluster rebuilt(world, dtype, model(), {.exchange = kind}),
        final_from_the_start(world, dtype, model(), {.exchange = kind});
    for (uint64_t step = 0; step < 6; ++step) {
      const ByRank a = rebuilt.step(step < 2 ? kOneBucket : kSeveral, step),
                   b = final_from_the_start.step(kSeveral, step);
      ASSERT_EQ(a, b) << "step " << step;
    }
    EXPECT_EQ(rebuilt.snapshot(), final_from_the_start.snapshot());
  }
}

TEST_P(AveragerState, RestsWhileOff) {
  Cluster cluster(world, DType::kFloat32, model(), {.exchange = kind}),
      dense(world, DType::kFloat32, model(), {.exchange = ExchangeKind::kDense});
  cluster.step(kSeveral, 0);
  const ByRank before = cluster.snapshot();
  const std::vector<uint64_t> steps = cluster.steps(0);
  for (auto& a : cluster.averagers) a->set_enabled(false);
  EXPECT_EQ(cluster.step(kSeveral, 1), dense.step(kSeveral, 1));
  EXPECT_EQ(cluster.snapshot(), before);
  EXPECT_EQ(cluster.steps(0), steps);
  for (auto& a : cluster.averagers) a->set_enabled(true);
  Cluster uninterrupted(world, DType::kFloat32, model(), {.exchange = kind});
  uninterrupted.step(kSeveral, 0);
  EXPECT_EQ(cluster.step(kSeveral, 2), uninterrupted.step(kSeveral, 2));
}

TEST_P(AveragerState, ScalesWithTheLoss) {
  // A power of two scales every number without rounding: scaled gradients on scaled state give scaled results.
  Cluster plain(world, DType::kFloat32, model(), {.exchange = kind}),
      scaled(world, DType::kFloat32, model(), {.exchange = kind});
  for (uint64_t step = 0; step < 3; ++step) plain.step(kOneBucket, step), scaled.step(kOneBucket, step);
  for (auto& a : scaled.averagers) a->scale_state(4.0);
  ByRank gradients = plain.gradients(3);
  const ByRank expected = plain.step(kOneBucket, gradients);
  for (auto& of_rank : gradients)
    for (Vector& g : of_rank)
      for (size_t i = 0; i < g.size(); ++i) g.set(i, 4 * g[i]);
  const ByRank out = scaled.step(kOneBucket, gradients);
  for (size_t id = 0; id < model().size(); ++id)
    for (size_t i = 0; i < out[0][id].size(); ++i) ASSERT_EQ(out[0][id][i], 4 * expected[0][id][i]);
}

TEST_P(AveragerState, CanBeCarriedOver) {
  Cluster a(world, DType::kFloat32, model(), {.exchange = kind}),
      b(world, DType::kFloat32, model(), {.exchange = kind});
  for (uint64_t step = 0; step < 3; ++step) a.step(kSeveral, step);
  for (size_t r = 0; r < a.averagers.size(); ++r) {
    const std::vector<StateRef> from = a.averagers[r]->states().all(), to = b.averagers[r]->states().all();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      ASSERT_TRUE(from[i].parameter == to[i].parameter && from[i].side == to[i].side && from[i].begin == to[i].begin);
      EXPECT_EQ(from[i].name, "residual");
      std::memcpy(to[i].view.data, from[i].view.data, to[i].view.numel * size_of(to[i].view.dtype));
    }
    for (uint32_t id = 0; id < model().size(); ++id)
      b.averagers[r]->states().progress(id) = a.averagers[r]->states().progress(id);
  }
  EXPECT_EQ(a.step(kSeveral, 3), b.step(kOneBucket, 3));
}

TEST_P(AveragerState, UnusedParametersAreHeld) {
  Cluster cluster(world, DType::kFloat32, model(), {.exchange = kind, .hold_unused = true});
  cluster.step(kOneBucket, 0);
  const ByRank before = cluster.snapshot();
  ByRank gradients = cluster.gradients(1);
  for (auto& of_rank : gradients) of_rank[2] = Vector(DType::kFloat32, 2500);  // unused everywhere
  gradients[0][0] = Vector(DType::kFloat32, 700);                              // unused on rank 0
  const ByRank out = cluster.step(kOneBucket, gradients), after = cluster.snapshot();
  EXPECT_EQ(test::max_abs(out[0][2].view()), 0.0);
  for (size_t r = 0; r < before.size(); ++r) EXPECT_EQ(after[r][2], before[r][2]) << r;
  EXPECT_EQ(after[0][0], before[0][0]);
  EXPECT_NE(after[1][0], before[1][0]);
  EXPECT_GT(test::max_abs(out[0][0].view()), 0.0);

  Cluster eager(world, DType::kFloat32, model(), {.exchange = kind});
  eager.step(kOneBucket, 0);
  EXPECT_GT(test::max_abs(eager.step(kOneBucket, gradients)[0][2].view()),
            0.0);  // without holding, residuals are delivered
}

/// What a rank owes of a parameter.
Vector owed(const Cluster& cluster, size_t rank, uint32_t id) {
  return Vector(ConstView(cluster.averagers[rank]->states().owed(id)));
}

/// Every parameter from now on without a residual: what there is of it is owed.
void forget_residuals(Cluster& cluster) {
  test::on_ranks(cluster.group, [&](int rank) {
    const MechanismPtr plain = parse_mechanism("Quantizer(bits=8)");
    cluster.averagers[size_t(rank)]->set_mechanisms({cluster.model.size(), {plain, plain}});
  });
}

TEST_P(AveragerState, WhatIsOwedWaitsForAParameterToBeUsed) {
  Cluster cluster(world, DType::kFloat32, model(), {.exchange = kind, .hold_unused = true});
  cluster.step(kOneBucket, 0);
  forget_residuals(cluster);
  const Vector debt = owed(cluster, 0, 2);
  ASSERT_GT(test::max_abs(debt.view()), 0.0);
  ByRank gradients = cluster.gradients(1);
  for (auto& of_rank : gradients) of_rank[2] = Vector(DType::kFloat32, 2500);
  EXPECT_EQ(test::max_abs(cluster.step(kOneBucket, gradients)[0][2].view()), 0.0);  // DDP would throw it away
  EXPECT_EQ(owed(cluster, 0, 2), debt);
  EXPECT_EQ(owed(cluster, 0, 0).size(), 0u);  // used, so paid
  cluster.step(kOneBucket, 2);
  EXPECT_EQ(owed(cluster, 0, 2).size(), 0u);
}

// Of a spec without residuals: the worker's and the owner's are owed, and still are under the spec after that.
TEST_P(AveragerState, WhatIsOwedOutlivesSeveralSpecs) {
  Cluster cluster(world, DType::kFloat32, {{900, "ErrorFeedback(Quantizer(bits=1))"}}, {.exchange = kind});
  cluster.step({{0}}, 0);
  std::vector<Vector> debts;
  const Vector owners = cluster.owner_residual(0);
  for (int rank = 0; rank < world; ++rank) {
    Vector debt = cluster.residual(rank, 0);
    for (size_t i = 0; i < debt.size(); ++i) debt.set(i, float(debt[i]) + float(owners[i]));
    debts.push_back(debt);
  }
  for (int times = 0; times < 2; ++times) {
    forget_residuals(cluster);
    for (size_t r = 0; r < debts.size(); ++r)
      EXPECT_LE(test::max_difference(owed(cluster, r, 0).view(), debts[r].view()), 1e-6) << r << ' ' << times;
  }
}

// A step that breaks off has paid nothing: the gradients are as they came, to the rounding of two additions.
TEST_P(AveragerState, WhatWasPaidIsTakenBackWhereAStepBreaksOff) {
  Cluster cluster(world, DType::kFloat32, {{900, "ErrorFeedback(Quantizer(bits=1))"}}, {.exchange = kind});
  cluster.step({{0}}, 0);
  forget_residuals(cluster);
  const Vector debt = owed(cluster, 0, 0);
  ASSERT_GT(test::max_abs(debt.view()), 0.0);
  const ByRank gradients = cluster.gradients(1);
  ByRank values = gradients;
  cluster.group->abort();
  for (const std::string& error : cluster.try_step({{0}}, values)) EXPECT_NE(error, "");
  EXPECT_EQ(owed(cluster, 0, 0), debt);
  for (size_t r = 0; r < values.size(); ++r) {
    const double size = test::max_abs(gradients[r][0].view()) + test::max_abs(owed(cluster, r, 0).view());
    EXPECT_LE(test::max_difference(values[r][0].view(), gradients[r][0].view()), 4 * size * 0x1p-24) << r;
  }
}

// Workers' and owners' messages have rates of their own.
TEST(Averager, OwnersHaveTheirOwnRates) {
  const auto bytes = [](double worker, double owner) {
    Cluster cluster(2, DType::kFloat32, {{60'000, "UniformStep(bits=1.0)", "UniformStep(bits=1.0)"}},
                    {.exchange = ExchangeKind::kSharded});
    for (auto& averager : cluster.averagers) {
      averager->states().progress(0).rates[0] = {worker};
      averager->states().progress(0).rates[1] = {owner};
    }
    cluster.step({{0}}, 0);
    return static_cast<double>(cluster.averagers[0]->stats().traffic.handed_bytes);
  };
  const double both = bytes(1, 1), up = bytes(2, 1), down = bytes(1, 2);  // a rank hands over two parts, and its own
  EXPECT_NEAR((up - both) / 7500, 1, 0.15);
  EXPECT_NEAR((down - both) / 3750, 1, 0.15);
}

// 1e300 is finite in float64, whatever float32 thinks of it.
TEST_P(AveragerState, WhatWasPaidInLargeNumbersIsSettled) {
  Cluster cluster(world, DType::kFloat64, {{300, "ErrorFeedback(TopK(k=3))"}}, {.exchange = kind});
  cluster.step({{0}}, 0);
  test::on_ranks(cluster.group, [&](int rank) {
    const MechanismPtr plain = parse_mechanism("TopK(k=300)");
    cluster.averagers[size_t(rank)]->set_mechanisms({{plain, plain}});
  });
  ByRank gradients = cluster.gradients(1);
  gradients[0][0].set(7, 1e300);
  EXPECT_GT(test::max_abs(cluster.step({{0}}, gradients)[0][0].view()), 1e299);
  EXPECT_EQ(owed(cluster, 0, 0).size(), 0u);
}

}  // namespace
}  // namespace tsq
