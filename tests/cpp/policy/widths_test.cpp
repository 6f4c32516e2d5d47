// Bits of parameters from smoothness: budgets and metrics.
#include "policy/widths.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace tsq {
namespace {

TEST(Costs, FollowTheMetric) {
  const std::vector<double> moments = {4.0, 1.0, 0.0}, curvatures = {2.0, 0.0, NAN};
  EXPECT_EQ(error_costs(Metric::kSgd, moments, curvatures, 0.25, 0.5), (std::vector<double>{2.0, 0.5, 0.5}));
  EXPECT_EQ(error_costs(Metric::kAdam, moments, curvatures, 0.25, 0.5), (std::vector<double>{0.5, 1.0, 2.0}));
  EXPECT_EQ(error_costs(Metric::kSgd, moments, {}, 0.25, 0.5), std::vector<double>(3, 1.0));
  EXPECT_TRUE(error_costs(Metric::kAdam, {}, {}, 1, 1).empty());
}

TEST(ShareBits, KeepsTheBudgetOfAllRuns) {
  std::mt19937_64 random(1);
  for (const double average : {1.0, 1.37, 2.0, 2.5, 7.9, 8.0})
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<std::vector<double>> costs, moments;
      size_t runs = 0;
      for (int p = 0; p < 5; ++p) {
        const size_t n = random() % 40;
        runs += n;
        costs.emplace_back(n), moments.emplace_back(n);
        for (double& v : costs.back()) v = std::pow(10.0, static_cast<double>(random() % 6));
        for (double& v : moments.back()) v = std::pow(10.0, static_cast<double>(random() % 6) - static_cast<double>(p));
      }
      std::vector<WidthShare> shares;
      for (size_t p = 0; p < 5; ++p) shares.push_back({costs[p], moments[p]});
      const std::vector<double> bits = share_bits(shares, average, {});
      size_t given = 0;
      for (size_t p = 0; p < 5; ++p) {
        EXPECT_GE(bits[p], 1.0);
        EXPECT_LE(bits[p], 8.0);
        given += static_cast<size_t>(std::floor(bits[p] * static_cast<double>(costs[p].size())));
        if (costs[p].empty()) {
          EXPECT_EQ(bits[p], average);
        }
      }
      EXPECT_EQ(given, static_cast<size_t>(std::floor(average * static_cast<double>(runs))));
    }
}

TEST(ShareBits, GivesMoreWhereErrorsCostMore) {
  const std::vector<double> one(8, 1.0), much(8, 256.0);
  const std::vector<double> bits = share_bits(std::vector<WidthShare>{{one, one}, {much, one}}, 3.0, {});
  EXPECT_GT(bits[1], bits[0] + 2.9);
  const std::vector<double> same = share_bits(std::vector<WidthShare>{{one, much}, {much, one}}, 3.0, {});
  EXPECT_NEAR(same[0], same[1], 0.2);
}

}  // namespace
}  // namespace tsq
