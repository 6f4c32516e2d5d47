// Compression in turned coordinates on ranks as threads: the same everywhere, nothing owed is lost, resumable.
#include "hook/rotation.h"

#include <gtest/gtest.h>

#include "hook/checkpoint.h"
#include "hook/ranks.h"

namespace tsq {
namespace {

using test::ByRank;
using test::Cluster;
using test::Vector;

const std::vector<MatrixShape> kShapes = {{48, 32}, {0, 0}, {64, 20}};

std::vector<test::ParameterSpec> model(const std::string& spec) {
  return {{48 * 32, spec}, {50, "Direct(Identity())"}, {64 * 20, spec}};
}

/// A cluster whose ranks average through a Rotation.
struct Turned {
  Turned(int world, DType dtype, const std::string& spec,
         const RotationConfig& config = {.decay = 0.8, .warmup = 2, .interval = 3})
      : cluster(world, dtype, model(spec), {ExchangeKind::kAllGather}) {
    for (auto& averager : cluster.averagers) rotations.emplace_back(config, *averager, kShapes);
  }
  ByRank step(const test::Buckets& buckets, ByRank values) {
    test::on_ranks(cluster.group, [&](int rank) {
      const auto r = static_cast<size_t>(rank);
      for (const auto& ids : buckets) {
        size_t numel = 0, at = 0;
        for (const uint32_t id : ids) numel += cluster.model[id].numel;
        const Vector buffer(cluster.dtype, numel);
        for (const uint32_t id : ids) {
          const View own = values[r][id].view();
          std::memcpy(buffer.view().slice(at, own.numel).data, own.data, own.numel * size_of(own.dtype));
          at += own.numel;
        }
        rotations[r].average(*cluster.averagers[r], ids, buffer.view());
        at = 0;
        for (const uint32_t id : ids) {
          const View own = values[r][id].view();
          std::memcpy(own.data, buffer.view().slice(at, own.numel).data, own.numel * size_of(own.dtype));
          at += own.numel;
        }
      }
    });
    return values;
  }
  Cluster cluster;
  std::vector<Rotation> rotations;
};

const test::Buckets kBuckets = {{2, 1}, {0}};

TEST(Rotation, AllRanksGetTheSameAndNothingOwedIsLost) {
  for (const int world : {2, 3, 4})
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      Turned t(world, dtype, "ErrorFeedback(UniformStep(bits=1.0))");
      std::vector<std::vector<double>> given(3), delivered(3);
      for (size_t id = 0; id < 3; ++id) given[id].assign(t.cluster.model[id].numel, 0), delivered[id] = given[id];
      for (uint64_t step = 0; step < 12; ++step) {
        const ByRank values = t.cluster.gradients(step), out = t.step(kBuckets, values);
        for (size_t id = 0; id < 3; ++id) {
          for (size_t rank = 1; rank < out.size(); ++rank)
            EXPECT_TRUE(out[rank][id] == out[0][id]) << step << " " << id;
          for (size_t i = 0; i < given[id].size(); ++i) {
            for (const auto& of_rank : values) given[id][i] += of_rank[id][i] / world;
            delivered[id][i] += out[0][id][i];
          }
        }
      }
      for (const uint32_t id : {0u, 2u}) {  // sum of what came + mean of what is owed, turned back, = sum of gradients
        const KroneckerBasis basis = [&] {
          KroneckerBasis b(kShapes[id].rows, kShapes[id].columns, 512);
          for (const auto& [number, values] : t.rotations[0].state().parameters)
            if (number == id) b.load(values);
          return b;
        }();
        EXPECT_TRUE(basis.turned());
        Vector owed(dtype, given[id].size());
        for (int rank = 0; rank < world; ++rank) {
          const Vector residual = t.cluster.residual(rank, id);
          for (size_t i = 0; i < owed.size(); ++i) owed.set(i, owed[i] + residual[i] / world);
        }
        EXPECT_GT(test::max_abs(owed.view()), 0.1);
        basis.leave(owed.view());
        for (size_t i = 0; i < owed.size(); ++i)
          EXPECT_NEAR(delivered[id][i] + owed[i], given[id][i], dtype == DType::kFloat64 ? 2e-5 : 5e-4) << i;
      }
    }
}

TEST(Rotation, BeforeTheWarmUpItIsTheAverager) {
  Turned t(2, DType::kFloat32, "ErrorFeedback(Quantizer(bits=2))", {.warmup = 100});
  Cluster plain(2, DType::kFloat32, model("ErrorFeedback(Quantizer(bits=2))"), {ExchangeKind::kAllGather});
  for (uint64_t step = 0; step < 4; ++step) {
    const ByRank one = t.step(kBuckets, t.cluster.gradients(step)), two = plain.step(kBuckets, plain.gradients(step));
    for (size_t id = 0; id < 3; ++id) EXPECT_TRUE(one[0][id] == two[0][id]);
  }
}

TEST(Rotation, NaNReachesThatParameterAloneAndNoBasis) {
  Turned t(2, DType::kFloat32, "ErrorFeedback(Quantizer(bits=3))");
  for (uint64_t step = 0; step < 6; ++step) t.step(kBuckets, t.cluster.gradients(step));
  const auto before = t.rotations[1].state().parameters;
  const Vector residual = t.cluster.residual(0, 0);
  ByRank values = t.cluster.gradients(6);
  values[1][0].set(40, NAN);
  const ByRank out = t.step(kBuckets, values);
  for (size_t rank = 0; rank < 2; ++rank) {
    EXPECT_TRUE(test::all_nan(out[rank][0].view()));
    EXPECT_TRUE(std::isfinite(test::max_abs(out[rank][2].view())));
  }
  EXPECT_EQ(t.rotations[1].state().parameters[0], before[0]);
  EXPECT_NE(t.rotations[1].state().parameters[1], before[1]);
  EXPECT_LE(test::max_difference(t.cluster.residual(0, 0).view(), residual.view()), 1e-5);
  const ByRank next = t.step(kBuckets, t.cluster.gradients(7));
  EXPECT_TRUE(std::isfinite(test::max_abs(next[0][0].view())));
}

TEST(Rotation, EstimatesTurnWithTheirBasis) {
  // The gradient stands still: EF21's estimate comes ever closer, changes of basis or not.
  Turned t(2, DType::kFloat64, "EF21(Quantizer(bits=3), init='zero')");
  const ByRank values = t.cluster.gradients(1);
  double distance = 0;
  for (int step = 0; step < 25; ++step) {
    const ByRank out = t.step(kBuckets, values);
    distance = 0;
    for (size_t i = 0; i < out[0][0].size(); ++i)
      distance = std::max(distance, std::abs(out[0][0][i] - (values[0][0][i] + values[1][0][i]) / 2));
  }
  EXPECT_LT(distance, 1e-6);
}

TEST(Rotation, ResumesBitForBit) {
  for (const uint64_t stop : {1u, 2u, 4u, 5u}) {
    Turned a(2, DType::kFloat32, "ErrorFeedback(Quantizer(bits=2))"),
        b(2, DType::kFloat32, "ErrorFeedback(Quantizer(bits=2))");
    for (uint64_t step = 0; step < stop; ++step) a.step(kBuckets, a.cluster.gradients(step));
    for (size_t rank = 0; rank < 2; ++rank) {
      States &from = a.cluster.averagers[rank]->states(), &to = b.cluster.averagers[rank]->states();
      const std::vector<StateRef> given = from.all(), refs = to.all();
      for (size_t i = 0; i < refs.size(); ++i)
        std::memcpy(refs[i].view.data, given[i].view.data, refs[i].view.numel * 4);
      for (uint32_t id = 0; id < 3; ++id) to.progress(id) = from.progress(id);
      b.rotations[rank].load(a.rotations[rank].state());
    }
    for (uint64_t step = stop; step < stop + 6; ++step) {
      const ByRank one = a.step(kBuckets, a.cluster.gradients(step)), two = b.step(kBuckets, b.cluster.gradients(step));
      for (size_t id = 0; id < 3; ++id) EXPECT_TRUE(one[1][id] == two[1][id]) << stop << " " << step;
    }
  }
}

TEST(Rotation, WhatCannotBeTurnedIsRefusedOrLeft) {
  Cluster sharded(2, DType::kFloat32, model("Quantizer(bits=2)"), {ExchangeKind::kSharded});
  const auto make = [](const Averager& averager, const RotationConfig& config, std::span<const MatrixShape> shapes) {
    return test::error_of<ArgumentError>([&] { Rotation(config, averager, shapes); });
  };
  EXPECT_TRUE(test::contains(make(*sharded.averagers[0], {}, kShapes), "all_gather"));
  Cluster half(2, DType::kBFloat16, model("Quantizer(bits=2)"), {ExchangeKind::kAllGather});
  EXPECT_TRUE(test::contains(make(*half.averagers[0], {}, kShapes), "no parameter is one"));
  Cluster plain(2, DType::kFloat32, model("Quantizer(bits=2)"), {ExchangeKind::kAllGather});
  EXPECT_NE(make(*plain.averagers[0], {.largest_side = 10}, kShapes), "");
  EXPECT_NE(make(*plain.averagers[0], {.interval = 0}, kShapes), "");
  EXPECT_NE(make(*plain.averagers[0], {.decay = 1.0}, kShapes), "");
  EXPECT_EQ(make(*plain.averagers[0], {.largest_side = 20}, kShapes), "");  // one side of one of them
  EXPECT_FALSE(Rotation({.largest_side = 20}, *plain.averagers[0], kShapes).turns(0));
}

}  // namespace
}  // namespace tsq
