// Mechanisms with an estimate on the whole data path, ranks as threads: all ranks get the same bits, skipped messages
// do not travel, state belongs to parameters, NaN passes.
#include <cstring>
#include <set>

#include "hook/ranks.h"
#include "mechanisms/specs.h"

namespace tsq {
namespace {

using test::Buckets;
using test::ByRank;
using test::Cluster;
using test::Endpoints;
using test::Octets;
using test::ParameterSpec;
using test::Vector;

/// One parameter of every one-sided mechanism, averages by a mechanism of each kind.
std::vector<ParameterSpec> model() {
  const char* downs[] = {"EF21(Quantizer(bits=4))", "LAG(zeta=1.0)", "ErrorFeedback(Quantizer(bits=4))",
                         "Direct(Identity())", "CLAG(TopK(ratio=0.2), zeta=2.0)"};
  std::vector<ParameterSpec> out;
  for (const char* spec : test::kEstimating)
    if (!test::contains(spec, "Bidirectional"))
      out.push_back({300 + 270 * (out.size() % 5), spec, downs[out.size() % 5]});
  return out;
}

Buckets one_bucket() {
  Buckets all(1);
  for (uint32_t id = 0; id < model().size(); ++id) all[0].push_back(id);
  return all;
}

Buckets several() {
  Buckets out(3);
  for (uint32_t id = 0; id < model().size(); ++id) out[(id * 7 + 1) % 3].insert(out[(id * 7 + 1) % 3].begin(), id);
  return out;
}

ByRank drifting(const Cluster& cluster, uint64_t step) {
  ByRank out(cluster.averagers.size());
  for (size_t r = 0; r < out.size(); ++r)
    for (size_t id = 0; id < cluster.model.size(); ++id)
      out[r].push_back(test::drifting(cluster.dtype, cluster.model[id].numel, 100 * r + id, step));
  return out;
}

/// All state of all ranks, to compare.
std::vector<Vector> everything(Cluster& cluster) {
  std::vector<Vector> out;
  for (auto& averager : cluster.averagers)
    for (const StateRef& ref : averager->states().all()) out.emplace_back(ConstView(ref.view));
  return out;
}

class MechanismsOnRanks : public testing::TestWithParam<std::tuple<ExchangeKind, int>> {
 protected:
  const ExchangeKind kind = std::get<0>(GetParam());
  const int world = std::get<1>(GetParam());
  static constexpr uint64_t kSteps = 10;
};

INSTANTIATE_TEST_SUITE_P(All, MechanismsOnRanks,
                         testing::Combine(testing::Values(ExchangeKind::kAllGather, ExchangeKind::kSharded),
                                          testing::Values(2, 3, 4)),
                         [](const auto& info) {
                           return concat(name_of(std::get<0>(info.param)), "_", std::get<1>(info.param));
                         });

TEST_P(MechanismsOnRanks, AllRanksGetTheSameBits) {
  for (const DType dtype : test::kAllDTypes) {
    Cluster cluster(world, dtype, model(), {.exchange = kind});
    for (uint64_t step = 0; step < kSteps; ++step) {
      const ByRank out = cluster.step(one_bucket(), drifting(cluster, step));
      for (size_t r = 1; r < out.size(); ++r)
        for (size_t id = 0; id < out[r].size(); ++id)
          ASSERT_EQ(out[r][id], out[0][id]) << cluster.model[id].up << ' ' << name_of(dtype) << " step " << step;
      for (size_t id = 0; id < out[0].size(); ++id)
        ASSERT_TRUE(std::isfinite(test::max_abs(out[0][id].view()))) << cluster.model[id].up;
    }
    // Receivers of one parameter hold the same estimate on every rank.
    std::vector<StateRef> first;
    for (auto& averager : cluster.averagers) {
      std::vector<StateRef> shared;
      for (const StateRef& ref : averager->states().all())
        if (ref.side == (kind == ExchangeKind::kSharded ? Side::kDelivered : Side::kReceived)) shared.push_back(ref);
      if (first.empty()) first = shared;
      ASSERT_EQ(first.size(), shared.size());
      for (size_t i = 0; i < shared.size(); ++i)
        ASSERT_EQ(Vector(ConstView(shared[i].view)), Vector(ConstView(first[i].view))) << shared[i].name;
    }
  }
}

TEST_P(MechanismsOnRanks, StateBelongsToParameters) {
  Cluster rebuilt(world, DType::kFloat32, model(), {.exchange = kind}),
      uninterrupted(world, DType::kFloat32, model(), {.exchange = kind});
  for (uint64_t step = 0; step < kSteps; ++step)
    ASSERT_EQ(rebuilt.step(step < 2 ? one_bucket() : several(), drifting(rebuilt, step)),
              uninterrupted.step(several(), drifting(rebuilt, step)))
        << step;
  EXPECT_EQ(everything(rebuilt), everything(uninterrupted));
}

TEST_P(MechanismsOnRanks, StateCanBeCarriedOver) {
  Cluster a(world, DType::kFloat32, model(), {.exchange = kind}),
      b(world, DType::kFloat32, model(), {.exchange = kind});
  for (uint64_t step = 0; step < 4; ++step) a.step(several(), drifting(a, step));
  for (size_t r = 0; r < a.averagers.size(); ++r) {
    const std::vector<StateRef> from = a.averagers[r]->states().all(), to = b.averagers[r]->states().all();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      ASSERT_TRUE(from[i].parameter == to[i].parameter && from[i].side == to[i].side && from[i].name == to[i].name);
      std::memcpy(to[i].view.data, from[i].view.data, to[i].view.numel * size_of(to[i].view.dtype));
    }
    for (uint32_t id = 0; id < model().size(); ++id)
      b.averagers[r]->states().progress(id) = a.averagers[r]->states().progress(id);
  }
  for (uint64_t step = 4; step < kSteps; ++step)
    ASSERT_EQ(a.step(several(), drifting(a, step)), b.step(one_bucket(), drifting(a, step))) << step;
}

// A power of two scales every number without rounding: gradients and all state times 4 give averages times 4.
TEST_P(MechanismsOnRanks, AllStateScalesWithTheLoss) {
  Cluster plain(world, DType::kFloat32, model(), {.exchange = kind}),
      scaled(world, DType::kFloat32, model(), {.exchange = kind});
  for (uint64_t step = 0; step < 3; ++step)
    ASSERT_EQ(plain.step(one_bucket(), drifting(plain, step)), scaled.step(one_bucket(), drifting(plain, step)));
  for (auto& averager : scaled.averagers) averager->scale_state(4.0);
  for (uint64_t step = 3; step < kSteps; ++step) {
    ByRank gradients = drifting(plain, step);
    const ByRank expected = plain.step(one_bucket(), gradients);
    for (auto& of_rank : gradients)
      for (Vector& g : of_rank)
        for (size_t i = 0; i < g.size(); ++i) g.set(i, 4 * g[i]);
    const ByRank out = scaled.step(one_bucket(), gradients);
    for (size_t id = 0; id < model().size(); ++id)
      for (size_t i = 0; i < out[0][id].size(); ++i)
        ASSERT_EQ(out[0][id][i], 4 * expected[0][id][i]) << model()[id].up << " step " << step << ' ' << i;
  }
}

// A parameter that one rank does not use has the gradient zero there: an estimate takes it for one, held or not.
TEST_P(MechanismsOnRanks, AnUnusedParameterIsZeroToAnEstimate) {
  Cluster plain(world, DType::kFloat32, model(), {.exchange = kind}),
      holding(world, DType::kFloat32, model(), {.exchange = kind, .hold_unused = true});
  for (uint64_t step = 0; step < kSteps; ++step) {
    ByRank gradients = drifting(plain, step);
    for (size_t id = 0; step >= 2 && id < model().size(); ++id)
      gradients[0][id] = Vector(DType::kFloat32, model()[id].numel);
    const ByRank a = plain.step(one_bucket(), gradients), b = holding.step(one_bucket(), gradients);
    for (uint32_t id = 0; id < model().size(); ++id) {
      const bool down_keeps = !test::contains(model()[id].down, "ErrorFeedback");
      if (kind == ExchangeKind::kSharded && !down_keeps) continue;  // owners' residuals may be held
      ASSERT_EQ(a[0][id], b[0][id]) << model()[id].up << " step " << step;
    }
  }
}

TEST_P(MechanismsOnRanks, NotANumberPassesAndEstimatesGoOn) {
  for (const uint64_t bad_step : {0, 3}) {
    Cluster cluster(world, DType::kFloat32, model(), {.exchange = kind});
    for (uint64_t step = 0; step < kSteps; ++step) {
      ByRank values = drifting(cluster, step);
      if (step == bad_step)
        for (Vector& x : values[1]) x.set(x.size() - 1, NAN);
      const ByRank out = cluster.step(one_bucket(), values);
      for (size_t id = 0; id < out[0].size(); ++id) {
        for (size_t r = 0; r < out.size(); ++r)
          for (size_t i = 0; i < out[r][id].size(); ++i)
            ASSERT_EQ(std::isnan(out[r][id][i]), std::isnan(out[0][id][i])) << cluster.model[id].up;
        ASSERT_EQ(std::isnan(out[0][id][out[0][id].size() - 1]), step == bad_step)
            << cluster.model[id].up << " step " << step;
      }
    }
    for (const auto& averager : cluster.averagers) EXPECT_FALSE(averager->torn());
    for (const Vector& v : everything(cluster)) ASSERT_TRUE(std::isfinite(test::max_abs(v.view())));
  }
}

TEST_P(MechanismsOnRanks, WhenAllSkipNothingTravelsButLengths) {
  const std::vector<ParameterSpec> lazy = {{1000, "LAG(zeta=0.5)"}, {700, "CLAG(TopK(ratio=0.1), zeta=0.5)"}};
  Cluster cluster(world, DType::kFloat32, lazy, {.exchange = kind});
  const auto traffic = [&] { return cluster.averagers[0]->stats().traffic; };
  const ByRank gradients = drifting(cluster, 0);
  const ByRank first = cluster.step({{0, 1}}, gradients);  // dense
  const Traffic dense = traffic();
  EXPECT_GT(dense.handed_bytes, 1700 * sizeof(float));
  const ByRank second = cluster.step({{0, 1}}, gradients);  // at rest: x = y = h
  const Traffic rest = traffic();
  EXPECT_EQ(second, first);
  const bool sharded = kind == ExchangeKind::kSharded;
  EXPECT_EQ(rest.collectives - dense.collectives, sharded ? 2u : 1u);
  EXPECT_LE(rest.handed_bytes - dense.handed_bytes, 64u * size_t(world));
  const AveragerStats stats = cluster.averagers[0]->stats();
  EXPECT_EQ(stats.skipped, stats.sent / 2);
  ByRank moved = gradients;  // one rank moves: its message travels, the others' do not
  for (Vector& x : moved[1])
    for (size_t i = 0; i < x.size(); ++i) x.set(i, 3 * x[i] + 1);
  const ByRank third = cluster.step({{0, 1}}, moved);
  EXPECT_NE(third[0][0], second[0][0]);
  EXPECT_EQ(third[0], third[size_t(world) - 1]);
  EXPECT_GT(traffic().collectives - rest.collectives, sharded ? 2u : 1u);
}

// all_gather is Sender and Receiver with a network between.
TEST(MechanismsOnRanks, AllGatherIsSenderAndReceiver) {
  for (const char* spec : test::kEstimating) {
    if (test::contains(spec, "Bidirectional")) continue;
    for (const int world : {2, 3}) {
      Cluster cluster(world, DType::kFloat32, {{700, spec}}, {.exchange = ExchangeKind::kAllGather, .seed = 1});
      Endpoints ends(spec, 700, static_cast<uint32_t>(world));
      for (uint64_t step = 0; step < 9; ++step) {
        const ByRank gradients = drifting(cluster, step);
        std::vector<Octets> messages;
        for (size_t r = 0; r < size_t(world); ++r) messages.push_back(ends.send(r, gradients[r][0]));
        ASSERT_EQ(cluster.step({{0}}, gradients)[0][0], ends.receive(messages)) << spec << " step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace tsq
