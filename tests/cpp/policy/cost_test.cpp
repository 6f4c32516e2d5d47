// Cost models: their formulas, what they refuse, and the fit of MeasuredCost against brute force.
#include "policy/cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/error.h"

namespace tsq {
namespace {

struct Sample {
  double bytes, seconds;
};

double squared_error(const Line& line, const std::vector<Sample>& samples, double keep) {
  double total = 0, weight = 1;
  for (auto s = samples.rbegin(); s != samples.rend(); ++s, weight *= keep)
    total += weight * std::pow(line.c0 + line.c1 * s->bytes - s->seconds, 2);
  return total;
}

TEST(Cost, FormulasOfTheModels) {
  const EntryBits bits{.entry = 40, .scale = 32, .overhead = 448};
  EXPECT_EQ(BitCost().of(bits)(10), 432);
  EXPECT_EQ(AffineCost(2, 3, Unit::kSeconds).of(bits)(10), 32);
  EXPECT_EQ(AffineCost(2, 3, Unit::kSeconds).unit(), Unit::kSeconds);
  // 512 bytes: 102.4 entries of 5 bytes; the headers and the scale take 60 bytes, 12 entries' worth.
  const EntryCost straddling = PacketCost({512, 576, 64, true}).of(bits);
  EXPECT_EQ(straddling(90), 640);
  EXPECT_EQ(straddling(91), 1216);
  const EntryCost whole = PacketCost({512, 576, 64, false}).of(bits);
  EXPECT_EQ(whole(102), 640);
  EXPECT_EQ(whole(103), 1216);
  MeasuredCost::Config config;
  config.prior = {1e-3, 1e-6};
  EXPECT_DOUBLE_EQ(MeasuredCost(config).of(bits)(10), 1e-3 + 1e-6 * (60 + 50));
}

TEST(Cost, RefusesTermsThatAreNegativeOrAllZero) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(AffineCost(0, 0, Unit::kBits), ArgumentError);
  EXPECT_THROW(AffineCost(-1, 1, Unit::kBits), ArgumentError);
  EXPECT_THROW(AffineCost(1, nan, Unit::kBits), ArgumentError);
  EXPECT_THROW(PacketCost({0, 1, 0, true}), ArgumentError);
  EXPECT_THROW(PacketCost({1, 0, 0, true}), ArgumentError);
  EXPECT_THROW(PacketCost({1, 1, -1, true}), ArgumentError);
  EXPECT_THROW(MeasuredCost({{0, 0}, 0.9}), ArgumentError);
  EXPECT_THROW(MeasuredCost({{1, 0}, 0}), ArgumentError);
  MeasuredCost cost;
  EXPECT_THROW(cost.observe(-1, 1), ArgumentError);
  EXPECT_THROW(cost.observe(1, nan), ArgumentError);
  EXPECT_EQ(cost.samples(), 0u);
}

TEST(Cost, MeasuredFindsALine) {
  MeasuredCost cost;
  const Line prior = cost.fit();
  EXPECT_EQ(prior.c0, 1e-4);
  EXPECT_EQ(prior.c1, 8e-9);
  for (const double bytes : {1e3, 1e4, 1e6, 3e5}) cost.observe(bytes, 2e-3 + 1e-8 * bytes);
  EXPECT_NEAR(cost.fit().c0, 2e-3, 1e-12);
  EXPECT_NEAR(cost.fit().c1, 1e-8, 1e-17);
  EXPECT_NEAR(cost.seconds(5e5), 7e-3, 1e-12);
  EXPECT_EQ(cost.samples(), 4u);
}

TEST(Cost, MeasuredIsTheConstrainedLeastSquaresFit) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  int at_border[3] = {};
  for (int trial = 0; trial < 300; ++trial) {
    const double keep = trial % 2 ? 1.0 : 0.9, slope = 4 * uniform(random) - 2, at_zero = 2 * uniform(random) - 1;
    MeasuredCost cost({{1, 1}, keep});
    std::vector<Sample> samples;
    for (int i = 0; i < 8; ++i) {
      const double bytes = 1 + uniform(random);
      samples.push_back({bytes, std::max(0.0, at_zero + slope * bytes + 0.3 * uniform(random))});
      cost.observe(samples.back().bytes, samples.back().seconds);
    }
    const Line found = cost.fit();
    EXPECT_GE(found.c0, 0);
    EXPECT_GE(found.c1, 0);
    ++at_border[found.c0 == 0 ? 0 : found.c1 == 0 ? 1 : 2];
    const double least = squared_error(found, samples, keep);
    for (const double d0 : {-1e-4, 0.0, 1e-4})
      for (const double d1 : {-1e-4, 0.0, 1e-4}) {
        const Line other{std::max(0.0, found.c0 + d0), std::max(0.0, found.c1 + d1)};
        EXPECT_LE(least, squared_error(other, samples, keep) + 1e-12) << trial;
      }
  }
  for (const int count : at_border) EXPECT_GT(count, 20);  // all three cases were met
}

TEST(Cost, MeasuredWithSamplesOfOneSizeKeepsThePriorsProportions) {
  MeasuredCost cost({{1, 2}, 0.9});
  for (int i = 0; i < 5; ++i) cost.observe(4, 18);  // the prior says 9
  EXPECT_NEAR(cost.fit().c0, 2, 1e-12);
  EXPECT_NEAR(cost.fit().c1, 4, 1e-12);
  MeasuredCost empty({{0, 2}, 0.9});
  empty.observe(0, 3);  // a prior that says nothing of empty messages
  EXPECT_EQ(empty.fit().c0, 3);
}

TEST(Cost, MeasuredFollowsALinkThatChanges) {
  MeasuredCost cost({{1, 1}, 0.9});
  for (int i = 0; i < 1000; ++i) cost.observe(1 + i % 5, 1 + 1.0 * (1 + i % 5));
  for (int i = 0; i < 300; ++i) cost.observe(1 + i % 5, 4 + 8.0 * (1 + i % 5));
  EXPECT_NEAR(cost.fit().c0, 4, 1e-9);
  EXPECT_NEAR(cost.fit().c1, 8, 1e-9);
}

TEST(Cost, MeasuredStateGoesOnWhereItWas) {
  MeasuredCost one, other;
  for (int i = 1; i < 9; ++i) one.observe(1000.0 * i, 1e-3 + 1e-7 * i * i);
  other.set_state(one.state());
  EXPECT_EQ(other.samples(), 8u);
  one.observe(5e4, 0.1);
  other.observe(5e4, 0.1);
  EXPECT_EQ(one.fit().c0, other.fit().c0);
  EXPECT_EQ(one.fit().c1, other.fit().c1);
  const MeasuredCost::State good = one.state();
  for (double MeasuredCost::State::*field :
       {&MeasuredCost::State::samples, &MeasuredCost::State::weight, &MeasuredCost::State::mean_bytes,
        &MeasuredCost::State::mean_seconds, &MeasuredCost::State::variance, &MeasuredCost::State::covariance})
    for (const double bad : {-1.0, HUGE_VAL, double(NAN)}) {
      MeasuredCost::State s = good;
      s.*field = bad;
      if (field == &MeasuredCost::State::covariance && bad == -1)
        EXPECT_NO_THROW(MeasuredCost().set_state(s));
      else
        EXPECT_THROW(other.set_state(s), ArgumentError);
    }
  EXPECT_THROW(other.set_state({.samples = 1}), ArgumentError);  // of no weight
  EXPECT_EQ(one.fit().c1, other.fit().c1);                       // as it was
}

}  // namespace
}  // namespace tsq
