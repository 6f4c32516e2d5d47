// Collectives between threads: values, traffic, time-outs. Every other test of the hook stands on these.
#include "exchange/loopback.h"

#include <gtest/gtest.h>

#include "hook/ranks.h"

namespace tsq {
namespace {

using test::Vector;

class LoopbackTest : public testing::TestWithParam<int> {
 protected:
  const int world = GetParam();
  const std::shared_ptr<LoopbackGroup> group = std::make_shared<LoopbackGroup>(world);
};
INSTANTIATE_TEST_SUITE_P(Worlds, LoopbackTest, testing::Values(1, 2, 3, 4));

TEST_P(LoopbackTest, AllGatherConcatenatesInRankOrder) {
  test::on_ranks(group, [&](int rank) {
    LoopbackExchange exchange(group, rank);
    EXPECT_EQ(exchange.rank(), rank);
    EXPECT_EQ(exchange.size(), world);
    for (size_t n = 1; n <= 50; ++n) {
      const std::vector<uint8_t> mine(n, static_cast<uint8_t>(rank + 10 * n));
      std::vector<uint8_t> all(n * static_cast<size_t>(world));
      exchange.all_gather(mine, all);
      for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<uint8_t>(i / n + 10 * n));
    }
    const Traffic traffic = exchange.traffic();
    EXPECT_EQ(traffic.collectives, 50u);
    EXPECT_EQ(traffic.handed_bytes, 1275u);
    EXPECT_EQ(traffic.wire_bytes, 1275u * static_cast<uint64_t>(world - 1));
  });
}

TEST_P(LoopbackTest, AllToAllSendsEachPartToItsRank) {
  const auto size = [](int from, int to) { return static_cast<size_t>(1 + 3 * from + 5 * to); };
  test::on_ranks(group, [&](int rank) {
    LoopbackExchange exchange(group, rank);
    std::vector<size_t> send_sizes, receive_sizes;
    std::vector<uint8_t> send, expected;
    for (int r = 0; r < world; ++r) {
      send_sizes.push_back(size(rank, r));
      receive_sizes.push_back(size(r, rank));
      send.insert(send.end(), size(rank, r), static_cast<uint8_t>(16 * rank + r));
      expected.insert(expected.end(), size(r, rank), static_cast<uint8_t>(16 * r + rank));
    }
    std::vector<uint8_t> received(expected.size());
    exchange.all_to_all(send, send_sizes, received, receive_sizes);
    EXPECT_EQ(received, expected);
    EXPECT_EQ(exchange.traffic().handed_bytes, send.size());
    EXPECT_EQ(exchange.traffic().wire_bytes, send.size() - size(rank, rank));
  });
}

TEST_P(LoopbackTest, AllReduceScalesFirstAndAddsInRankOrder) {
  for (const DType dtype : test::kAllDTypes) {
    const size_t n = 101;
    Vector expected(dtype, n);
    for (size_t i = 0; i < n; ++i) {
      double exact = 0;
      float rounded = 0;
      for (int r = 0; r < world; ++r) {
        const double x = test::random_vector(dtype, n, static_cast<uint64_t>(r))[i];
        exact += x * (1.0 / world);
        rounded += static_cast<float>(x) * static_cast<float>(1.0 / world);
      }
      expected.set(i, dtype == DType::kFloat64 ? exact : rounded);
    }
    test::on_ranks(group, [&](int rank) {
      LoopbackExchange exchange(group, rank);
      const Vector x = test::random_vector(dtype, n, static_cast<uint64_t>(rank));
      exchange.all_reduce_mean(x.view());
      EXPECT_EQ(test::max_difference(x.view(), expected.view()), 0.0) << name_of(dtype);
      const uint64_t bytes = n * size_of(dtype);
      EXPECT_EQ(exchange.traffic().handed_bytes, bytes);
      EXPECT_EQ(exchange.traffic().wire_bytes,
                2 * bytes * static_cast<uint64_t>(world - 1) / static_cast<uint64_t>(world));
    });
  }
}

TEST(Loopback, TimeOutRaisesOnAllForGood) {
  const auto group = std::make_shared<LoopbackGroup>(3, std::chrono::milliseconds(50));
  std::atomic<int> timed_out = 0;
  test::on_ranks(group, [&](int rank) {
    if (rank == 0) return;  // never comes
    LoopbackExchange exchange(group, rank);
    const std::vector<uint8_t> mine(8);
    std::vector<uint8_t> all(24);
    const std::string error = test::error_of<std::runtime_error>([&] { exchange.all_gather(mine, all); });
    timed_out += test::contains(error, "timed out after 50 ms");
    EXPECT_TRUE(error.starts_with("loopback: ")) << error;
    EXPECT_TRUE(
        test::contains(test::error_of<std::runtime_error>([&] { exchange.all_gather(mine, all); }), "a peer is gone"));
  });
  EXPECT_GE(timed_out, 1);
  LoopbackExchange late(group, 0);
  std::vector<uint8_t> all(24);
  EXPECT_THROW(late.all_gather(std::vector<uint8_t>(8), all), std::runtime_error);
}

TEST(Loopback, AbortRaisesOnAll) {
  const auto group = std::make_shared<LoopbackGroup>(4);
  test::on_ranks(group, [&](int rank) {
    LoopbackExchange exchange(group, rank);
    const Vector x(DType::kFloat32, 8);
    if (rank == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      group->abort();
    }
    EXPECT_TRUE(test::contains(test::error_of<std::runtime_error>([&] { exchange.all_reduce_mean(x.view()); }),
                               "a peer is gone"));
  });
}

}  // namespace
}  // namespace tsq
