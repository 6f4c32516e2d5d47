// Planned widths on ranks as threads: the same everywhere, within the budget, resumable, untouched by NaN.
#include "hook/planner.h"

#include <gtest/gtest.h>

#include <set>

#include "compressors/mixed_quantizer.h"
#include "hook/ranks.h"

namespace tsq {
namespace {

using test::ByRank;
using test::Cluster;
using test::Vector;

constexpr const char* kSpec = "ErrorFeedback(Quantizer(bits=2.5))";
const test::Buckets kBuckets = {{3, 2}, {1, 0}};

std::vector<test::ParameterSpec> model(const std::string& spec = "ErrorFeedback(Quantizer(bits=2.5, levels='fit'))") {
  return {{6 * 1024, spec}, {3 * 1024 + 100, spec}, {50, "Direct(Identity())"}, {9 * 1024 + 1, spec}};
}

PlannerConfig config(RunningKind kind = RunningKind::kSecondMoment, Metric metric = Metric::kSgd) {
  return {.kind = kind, .metric = metric, .decay = 0.5, .floor = 1e-3, .warmup = 2, .interval = 3};
}

/// Whose planners look at these positions for secants.
void follow(Cluster& cluster, const PlannerConfig& planner, const std::vector<Vector>* positions = nullptr) {
  for (auto& averager : cluster.averagers)
    averager->follow(std::make_unique<Planner>(
        planner, averager->parameters(), [positions](uint32_t id) { return ConstView((*positions)[id].view()); }));
}

/// Gradients whose parameters differ in scale.
ByRank gradients(const Cluster& cluster, uint64_t step) {
  ByRank out = cluster.gradients(step);
  for (auto& of_rank : out)
    for (size_t id = 0; id < of_rank.size(); ++id)
      for (size_t i = 0; i < of_rank[id].size(); ++i)
        of_rank[id].set(i, std::ldexp(of_rank[id][i], id == 0 ? 3 : id == 3 ? -3 : 0));
  return out;
}

std::vector<double> bits(const Cluster& cluster, size_t rank) {
  std::vector<double> out;
  for (uint32_t id = 0; id < cluster.model.size(); ++id) {
    const auto planned = cluster.averagers[rank]->planner()->planned(id);
    out.push_back(planned ? planned->bits : 0.0);
  }
  return out;
}

size_t planned_bytes(const Cluster& cluster, size_t rank) {
  size_t bytes = 0;
  for (const Parameter& p : cluster.averagers[rank]->parameters())
    if (p.numel > 100) bytes += p.up->max_bytes(p.numel, p.dtype, false);
  return bytes;
}

class Planned : public testing::TestWithParam<std::tuple<int, ExchangeKind, DType>> {};

TEST_P(Planned, WidthsAndResultsAreTheSameOnAllRanks) {
  const auto [world, exchange, dtype] = GetParam();
  std::vector<Vector> positions;
  for (const auto& p : model()) positions.emplace_back(dtype, p.numel);
  for (const RunningKind kind : {RunningKind::kSecondMoment, RunningKind::kSecant}) {
    Cluster cluster(world, dtype, model(), {exchange});
    follow(cluster, config(kind), &positions);
    const size_t uniform = planned_bytes(cluster, 0);
    std::vector<double> first = bits(cluster, 0);
    EXPECT_EQ(first, (std::vector<double>{2.5, 2.5, 0, 2.5}));
    for (uint64_t step = 0; step < 9; ++step) {
      const ByRank out = cluster.step(kBuckets, gradients(cluster, step));
      for (size_t rank = 1; rank < out.size(); ++rank)
        for (size_t id = 0; id < out[rank].size(); ++id) EXPECT_TRUE(out[rank][id] == out[0][id]);
      for (size_t rank = 1; rank < out.size(); ++rank) EXPECT_EQ(bits(cluster, rank), bits(cluster, 0));
      for (size_t id = 0; id < positions.size(); ++id)  // between steps, as an optimizer does
        for (size_t i = 0; i < positions[id].size(); ++i) positions[id].set(i, positions[id][i] - 0.01 * out[0][id][i]);
      EXPECT_LE(planned_bytes(cluster, 0), uniform + 128 * 3);  // a short last run has its parameter's width
      if (step < 2) {
        EXPECT_EQ(bits(cluster, 0), first) << "planned before the end of the warm-up";
      }
    }
    if (world > 1) {  // alone it travels dense
      EXPECT_GT(bits(cluster, 0)[0], bits(cluster, 0)[3] + 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, Planned,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::Values(ExchangeKind::kAllGather, ExchangeKind::kSharded),
                                          testing::Values(DType::kFloat32, DType::kBFloat16)));

TEST(Planner, OtherMechanismsAndTheWayBackArePlannedToo) {
  for (const char* spec : {"EF21(Quantizer(bits=2.5, levels='fit'), init='zero')", "Direct(Quantizer(bits=3.0))",
                           "DIANA(Quantizer(bits=4.0))"}) {
    Cluster cluster(3, DType::kFloat32, {{8 * 1024, spec, kSpec}, {8 * 1024, spec, kSpec}}, {ExchangeKind::kSharded});
    follow(cluster, config());
    for (uint64_t step = 0; step < 6; ++step) {
      ByRank values = cluster.gradients(step);
      for (auto& of_rank : values)
        for (size_t i = 0; i < of_rank[0].size(); ++i) of_rank[0].set(i, 16 * of_rank[0][i]);
      cluster.step({{0, 1}}, values);
    }
    const auto& parameters = cluster.averagers[0]->parameters();
    for (const bool down : {false, true}) {
      const auto average = [&](size_t id) {
        const Mechanism& m = down ? *parameters[id].down : *parameters[id].up;
        return dynamic_cast<const MixedQuantizer&>(*m.codecs(0)[0]).bits();
      };
      EXPECT_GT(average(0), average(1)) << spec << (down ? " down" : " up");
    }
  }
}

TEST(Planner, WholeWidthsBecomeAverages) {
  std::vector<Parameter> parameters = {
      {"a", 4096, DType::kFloat32, parse_mechanism("ErrorFeedback(Quantizer(bits=2, block=64))"),
       parse_mechanism("Identity()")},
      {"b", 4096, DType::kFloat32, parse_mechanism("Quantizer()"), parse_mechanism("TopK(ratio=0.1)")},
      {"c", 4096, DType::kFloat32, parse_mechanism("ErrorFeedback(UniformStep(bits=1.0))"), parse_mechanism("Sign()")}};
  Planner::make_plannable(parameters);
  EXPECT_TRUE(test::contains(parameters[0].up->spec(), "Quantizer(bits=2.0, block=64")) << parameters[0].up->spec();
  EXPECT_TRUE(test::contains(parameters[1].up->spec(), "Quantizer(bits=4.0")) << parameters[1].up->spec();
  EXPECT_EQ(parameters[1].down->spec(), parse_mechanism("TopK(ratio=0.1)")->spec());
  const Planner planner({}, parameters);
  EXPECT_TRUE(planner.planned(0) && planner.planned(1) && !planner.planned(2));
  parameters.erase(parameters.begin(), parameters.begin() + 2);
  EXPECT_TRUE(test::contains(test::error_of<ArgumentError>([&] { Planner({}, parameters); }), "spec with a Quantizer"));
}

TEST(Planner, AStepWithNaNLeavesTheEstimateAlone) {
  for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    Cluster cluster(2, DType::kFloat32, model(), {ExchangeKind::kAllGather}),
        calm(2, DType::kFloat32, model(), {ExchangeKind::kAllGather});
    follow(cluster, config()), follow(calm, config());
    for (uint64_t step = 0; step < 8; ++step) {
      ByRank values = gradients(cluster, step);
      if (step == 3) {
        for (const uint32_t id : {0u, 1u, 3u}) values[1][id].set(7, bad);
        const ByRank out = cluster.step(kBuckets, values);
        EXPECT_TRUE(test::all_nan(out[0][0].view()));
      } else {
        cluster.step(kBuckets, values);
      }
      calm.step(kBuckets, step == 3 ? gradients(calm, 2) : gradients(calm, step));
      for (const double b : bits(cluster, 0)) EXPECT_TRUE(std::isfinite(b));
      EXPECT_EQ(bits(cluster, 1), bits(cluster, 0));
    }
    for (const auto& [id, values] : cluster.averagers[0]->planner()->state().parameters)
      for (const double v : values) EXPECT_TRUE(std::isfinite(v)) << id;
    for (size_t id = 0; id < 4; ++id) EXPECT_NEAR(bits(cluster, 0)[id], bits(calm, 0)[id], 0.5);
  }
}

TEST(Planner, ResumesBitForBit) {
  for (const ExchangeKind exchange : {ExchangeKind::kAllGather, ExchangeKind::kSharded})
    for (const uint64_t stop : {1u, 2u, 4u, 6u}) {
      Cluster a(3, DType::kFloat32, model(), {exchange}), b(3, DType::kFloat32, model(), {exchange});
      follow(a, config()), follow(b, config());
      for (uint64_t step = 0; step < stop; ++step) a.step(kBuckets, gradients(a, step));
      for (size_t rank = 0; rank < 3; ++rank) {
        States &from = a.averagers[rank]->states(), &to = b.averagers[rank]->states();
        const std::vector<StateRef> given = from.all(), refs = to.all();
        for (size_t i = 0; i < refs.size(); ++i)
          std::memcpy(refs[i].view.data, given[i].view.data, refs[i].view.numel * 4);
        for (uint32_t id = 0; id < 4; ++id) to.progress(id) = from.progress(id);
        const Planner::Saved saved = a.averagers[rank]->planner()->state();
        b.averagers[rank]->plan([&](Planner& p, std::vector<Parameter>& parameters) { p.load(saved, parameters); });
      }
      for (uint64_t step = stop; step < stop + 5; ++step) {
        const ByRank one = a.step(kBuckets, gradients(a, step)), two = b.step(kBuckets, gradients(b, step));
        for (size_t id = 0; id < 4; ++id) EXPECT_TRUE(one[2][id] == two[2][id]) << stop << " " << step << " " << id;
        EXPECT_EQ(bits(a, 0), bits(b, 0));
      }
    }
}

TEST(Planner, BadStatesAreRefusedWhole) {
  Cluster cluster(2, DType::kFloat32, model(), {ExchangeKind::kAllGather});
  follow(cluster, config());
  for (uint64_t step = 0; step < 4; ++step) cluster.step(kBuckets, gradients(cluster, step));
  Averager& averager = *cluster.averagers[0];
  const Planner::Saved good = averager.planner()->state();
  const auto error = [&](auto change) {
    Planner::Saved bad = good;
    change(bad);
    return test::error_of<ArgumentError>(
        [&] { averager.plan([&](Planner& p, std::vector<Parameter>& parameters) { p.load(bad, parameters); }); });
  };
  EXPECT_EQ(error([](auto&) {}), "");
  EXPECT_NE(error([](auto& s) { s.parameters.pop_back(); }), "");
  EXPECT_NE(error([](auto& s) { s.parameters[0].first = 2; }), "");
  EXPECT_NE(error([](auto& s) { s.parameters[2].second.resize(2); }), "");
  EXPECT_NE(error([](auto& s) { s.parameters[2].second[0] = 9; }), "");
  EXPECT_NE(error([](auto& s) { s.parameters[2].second[2] = 1e18; }), "");
  EXPECT_NE(error([](auto& s) { s.parameters[2].second[2] = NAN; }), "");
  EXPECT_NE(error([](auto& s) { s.parameters[2].second.push_back(1); }), "");
  EXPECT_EQ(averager.planner()->state().parameters, good.parameters);
}

TEST(Planner, OtherBucketsAndSpecsKeepTheEstimate) {
  Cluster cluster(2, DType::kFloat32, model(), {ExchangeKind::kAllGather});
  follow(cluster, config());
  cluster.step({{0, 1, 2, 3}}, gradients(cluster, 0));  // DDP's first iteration: one bucket
  for (uint64_t step = 1; step < 5; ++step) cluster.step(kBuckets, gradients(cluster, step));
  const std::vector<double> before = bits(cluster, 0);
  EXPECT_GT(before[0], before[3]);
  test::on_ranks(cluster.group, [&](int rank) {
    std::vector<std::pair<MechanismPtr, MechanismPtr>> mechanisms;
    for (const auto& p : model("ErrorFeedback(Quantizer(bits=4))"))
      mechanisms.emplace_back(parse_mechanism(p.up), parse_mechanism(p.down));
    cluster.averagers[static_cast<size_t>(rank)]->set_mechanisms(std::move(mechanisms));
  });
  const std::vector<double> after = bits(cluster, 0);
  EXPECT_GT(after[0], after[3] + 1);  // planned at once, from what was known
  EXPECT_GT(after[1], before[1]);
  for (uint64_t step = 5; step < 9; ++step) cluster.step(kBuckets, gradients(cluster, step));
  EXPECT_EQ(bits(cluster, 1), bits(cluster, 0));
}

TEST(Planner, NumbersOutOfRangeAreRefused) {
  const std::vector<Parameter> parameters = {
      {"a", 4096, DType::kFloat32, parse_mechanism("Quantizer(bits=2.0)"), parse_mechanism("Quantizer(bits=2.0)")}};
  EXPECT_NE(test::error_of<ArgumentError>([&] { Planner({.decay = 1.0}, parameters); }), "");
  EXPECT_NE(test::error_of<ArgumentError>([&] { Planner({.floor = 0.0}, parameters); }), "");
  EXPECT_NE(test::error_of<ArgumentError>([&] { Planner({.interval = 0}, parameters); }), "");
}

}  // namespace
}  // namespace tsq
