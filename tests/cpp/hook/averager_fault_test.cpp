// Faults: a NaN stays in its parameter, a failed exchange and bytes that are no message leave no trace in the state.
#include "hook/faulty.h"
#include "hook/ranks.h"

namespace tsq {
namespace {

using test::Buckets;
using test::ByRank;
using test::Cluster;
using test::FaultyExchange;
using test::MisbehavingExchange;
using test::ParameterSpec;
using test::Vector;

std::vector<ParameterSpec> model() {
  return {{300, "ErrorFeedback(Quantizer(bits=2))"},
          {5, "Identity()"},
          {1100, "ErrorFeedback(Quantizer(bits=4))"},
          {600, "Quantizer(bits=4)"},
          {64, "ErrorFeedback(Quantizer(bits=3, levels='unbiased'))"},
          {1500, "ErrorFeedback(TopK(ratio=0.1))"}};  // payloads whose length depends on the data
}

const Buckets kBuckets = {{0, 1, 2, 3, 4, 5}};
constexpr double kRounding = 8 * 0x1p-24;

class AveragerFault : public testing::TestWithParam<ExchangeKind> {
 protected:
  const ExchangeKind kind = GetParam();
};
INSTANTIATE_TEST_SUITE_P(All, AveragerFault, testing::Values(ExchangeKind::kAllGather, ExchangeKind::kSharded),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(AveragerFault, NaNOfOneRankGoesToAllForItsParameterOnly) {
  for (const double poison : {NAN, INFINITY}) {
    for (const DType dtype : test::kAllDTypes) {
      Cluster cluster(3, dtype, model(), {.exchange = kind}), healthy(3, dtype, model(), {.exchange = kind});
      cluster.step(kBuckets, 0);
      healthy.step(kBuckets, 0);
      const ByRank before = cluster.snapshot();
      ByRank gradients = cluster.gradients(1);
      const ByRank clean = gradients;
      gradients[1][2].set(1000, poison);
      const ByRank out = cluster.step(kBuckets, gradients), expected = healthy.step(kBuckets, clean),
                   after = cluster.snapshot();
      for (size_t rank = 0; rank < 3; ++rank) {
        ASSERT_TRUE(test::all_nan(out[rank][2].view()));
        for (const size_t id : {0, 1, 3, 4}) ASSERT_EQ(out[rank][id], expected[rank][id]) << id;
        const double size =
            test::max_abs(before[rank][2].view()) + test::max_abs(gradients[rank == 1 ? 0 : rank][2].view());
        EXPECT_LE(test::max_difference(after[rank][2].view(), before[rank][2].view()),
                  rank == 1 ? 0.0 : 4 * size * test::epsilon(state_dtype(dtype)));
        for (const size_t id : {0, 1, 3, 4}) EXPECT_EQ(after[rank][id], healthy.snapshot()[rank][id]);
      }
      EXPECT_EQ(after[3][2], before[3][2]);  // the owners' residuals
      EXPECT_GE(cluster.averagers[0]->stats().non_finite, 1u);
      for (const auto& of_rank : cluster.step(kBuckets, 2))
        for (const Vector& v : of_rank) EXPECT_TRUE(std::isfinite(test::max_abs(v.view())));
    }
  }
}

TEST_P(AveragerFault, NaNInParametersWithoutStateReachesAllRanks) {
  Cluster cluster(3, DType::kFloat32, model(), {.exchange = kind});
  ByRank gradients = cluster.gradients(0);
  gradients[2][1].set(3, NAN);
  gradients[0][3].set(0, INFINITY);
  const ByRank out = cluster.step(kBuckets, gradients);
  for (size_t rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(std::isnan(out[rank][1][3]));
    EXPECT_TRUE(std::isnan(out[rank][3][0]));
    for (const size_t id : {0, 2, 4}) EXPECT_TRUE(std::isfinite(test::max_abs(out[rank][id].view())));
    for (size_t i = 0; i < 600; ++i) EXPECT_EQ(std::isnan(out[rank][3][i]), std::isnan(out[0][3][i]));
  }
}

TEST_P(AveragerFault, FailedCollectiveLeavesStateAndBufferAsTheyWere) {
  const uint64_t per_step = kind == ExchangeKind::kSharded ? 4 : 2;    // lengths, then messages, each way
  for (uint64_t target = per_step; target < 2 * per_step; ++target) {  // one step is fine, then one fails
    Cluster cluster(3, DType::kFloat32, model(), {.exchange = kind},
                    [&](test::GroupPtr group, int rank) -> std::unique_ptr<Exchange> {
                      if (rank != 1) return test::plain_exchange(group, rank);
                      return std::make_unique<MisbehavingExchange>(group, rank, MisbehavingExchange::Kind::kThrow,
                                                                   target);
                    });
    cluster.step(kBuckets, 0);
    const ByRank before = cluster.snapshot(), gradients = cluster.gradients(1);
    const std::vector<uint64_t> steps = cluster.steps(0);
    ByRank values = gradients;
    const std::vector<std::string> errors = cluster.try_step(kBuckets, values);
    EXPECT_EQ(errors[1], "planted failure");
    EXPECT_TRUE(test::contains(errors[0], "a peer is gone") && test::contains(errors[2], "a peer is gone"));
    EXPECT_EQ(values, gradients);
    EXPECT_EQ(cluster.steps(0), steps);
    EXPECT_LE(test::relative_difference(cluster.snapshot(), before, gradients), kRounding) << "collective " << target;
  }
}

// Every byte has a seal over it. Only padding may be altered unseen, and nobody reads that.
TEST_P(AveragerFault, AlteredBytesRaiseAndLeaveNoTrace) {
  const std::vector<ParameterSpec> fixed = {{40, "ErrorFeedback(Quantizer(bits=4, block=32))"},
                                            {3, "Identity()"},
                                            {300, "ErrorFeedback(Quantizer(bits=1))"}},
                                   varying = {{40, "ErrorFeedback(TopK(k=3))"}, {300, "ErrorFeedback(TopK(k=9))"}};
  for (const auto& small : {fixed, varying}) {
    const Buckets buckets = small.size() == 3 ? Buckets{{0, 1, 2}} : Buckets{{0, 1}};
    const uint64_t per_step = (kind == ExchangeKind::kSharded ? 2 : 1) * (small.size() == 3 ? 1 : 2);
    Cluster healthy(2, DType::kFloat32, small, {.exchange = kind});
    healthy.step(buckets, 0);
    const ByRank right = healthy.step(buckets, 1);
    size_t raised = 0, unread = 0;
    for (uint64_t target = per_step; target < 2 * per_step; ++target) {
      for (size_t position = 0; position < 330; ++position) {
        Cluster cluster(2, DType::kFloat32, small, {.exchange = kind},
                        [&](test::GroupPtr group, int rank) -> std::unique_ptr<Exchange> {
                          if (rank != 0) return test::plain_exchange(group, rank);
                          return std::make_unique<MisbehavingExchange>(group, rank, MisbehavingExchange::Kind::kFlip,
                                                                       target, position, 0x42);
                        });
        cluster.step(buckets, 0);
        const ByRank before = cluster.snapshot(), gradients = cluster.gradients(1);
        ByRank values = gradients;
        const std::string error = cluster.try_step(buckets, values)[0];
        if (error.empty()) {
          ++unread;
          ASSERT_EQ(values[0], right[0]) << "altered and believed: position " << position;
          continue;
        }
        ++raised;
        ASSERT_TRUE(error.starts_with("bad message from rank ") && test::contains(error, ": checksum: ")) << error;
        EXPECT_EQ(values[0], gradients[0]);
        ByRank after = cluster.snapshot(), was = before;
        after.resize(1), was.resize(1);  // rank 0's; the other one has finished its step
        EXPECT_LE(test::relative_difference(after, was, gradients), kRounding) << "position " << position;
        for (const StateRef& ref : cluster.averagers[0]->states().all())
          EXPECT_TRUE(std::isfinite(test::max_abs(ref.view)));
      }
    }
    EXPECT_GT(raised, 8 * unread);
  }
}

TEST_P(AveragerFault, DamageAtTheSenderIsNamedOnEveryRank) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<FaultyExchange*> exchanges(3);
    Cluster cluster(3, DType::kFloat32, model(), {.exchange = kind}, [&](test::GroupPtr group, int rank) {
      auto exchange = std::make_unique<FaultyExchange>(group, rank, std::chrono::milliseconds(0), seed);
      exchanges[size_t(rank)] = exchange.get();
      return exchange;
    });
    cluster.step(kBuckets, 0);
    exchanges[1]->arm(test::Fault::kAlteredSent, 0);  // the lengths: everybody gets them
    ByRank values = cluster.gradients(1);
    for (const std::string& error : cluster.try_step(kBuckets, values))
      EXPECT_TRUE(error.starts_with("bad message from rank 1: checksum: expected ")) << error;
    EXPECT_EQ(values, cluster.gradients(1));
  }
}

// Damage that one rank alone received: it stops, and the others, who have their averages, wait for it in the next step
// until the time limit ends that.
TEST(Averager, OthersTimeOutAfterDamageThatOneRankReceived) {
  constexpr std::chrono::milliseconds kLimit(200);
  const auto group = std::make_shared<LoopbackGroup>(3, kLimit);
  std::vector<std::string> errors(3);
  std::vector<int> delivered(3);
  std::vector<double> seconds(3);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      const auto r = static_cast<size_t>(rank);
      auto exchange = std::make_unique<FaultyExchange>(group, rank, kLimit, 1);
      if (rank == 2) exchange->arm(test::Fault::kAlteredReceived, 1);
      const MechanismPtr m = parse_mechanism("ErrorFeedback(Quantizer(bits=4))");
      Averager averager({{"p", 2000, DType::kFloat32, m, m}}, {}, std::move(exchange));
      const std::vector<uint32_t> ids = {0};
      const auto start = std::chrono::steady_clock::now();
      try {
        for (uint64_t step = 0; step < 4; ++step, ++delivered[r])
          averager.average(ids, test::random_vector(DType::kFloat32, 2000, step * 3 + r).view());
      } catch (const std::exception& e) {
        errors[r] = e.what();
      }
      seconds[r] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(errors[2].starts_with("bad message from rank ")) << errors[2];
  EXPECT_EQ(delivered, (std::vector<int>{2, 2, 1}));
  for (const size_t r : {0, 1}) {
    EXPECT_TRUE(test::contains(errors[r], "loopback: ")) << errors[r];
    EXPECT_GE(seconds[r], 0.9 * std::chrono::duration<double>(kLimit).count());
  }
}

TEST(Averager, RanksOfOtherModelsRaiseInsteadOfAveraging) {
  const auto group = std::make_shared<LoopbackGroup>(2);
  const auto errors = test::errors_on_ranks(group, [&](int rank) {
    // The same number of bytes, but another block size.
    const MechanismPtr m =
        parse_mechanism(rank == 0 ? "Quantizer(bits=4, block=4096)" : "Quantizer(bits=4, block=2048)");
    Averager averager({{"p", 2000, DType::kFloat32, m, m}}, {}, std::make_unique<LoopbackExchange>(group, rank));
    const std::vector<uint32_t> ids = {0};
    averager.average(ids, test::random_vector(DType::kFloat32, 2000, 1).view());
  });
  for (const std::string& error : errors)
    EXPECT_TRUE(test::contains(error, ": section: expected one of Quantizer")) << error;
}

}  // namespace
}  // namespace tsq
