// What the controller of rates makes of a step: every part by its own aims.
#include "mechanisms/section.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tsq {
namespace {

TEST(Rates, EveryPartMovesByItsOwnRatio) {
  std::vector<double> rates = {1.0, 3.0, 0.5};
  const Aim aims[] = {{1000, 250}, {1000, 100}, {1620, 250}};  // got 2000, 800 and 2000 bits
  next_rates(aims, rates);
  ASSERT_EQ(rates.size(), 3u);
  EXPECT_DOUBLE_EQ(rates[0], 0.8);  // sqrt(1/2), but a step moves by 20 % at most
  EXPECT_DOUBLE_EQ(rates[1], 3 * std::sqrt(1.25));
  EXPECT_DOUBLE_EQ(rates[2], 0.5 * 0.9);
}

TEST(Rates, StayWithinTheirLimits) {
  const Aim starved[] = {{1000, 50}}, flooded[] = {{1000, 5000}}, empty[] = {{1000, 12}}, aimless[] = {{0, 500}};
  std::vector<double> rates;
  next_rates(starved, rates);
  EXPECT_EQ(rates, std::vector<double>{1.25});
  for (int i = 0; i < 30; ++i) next_rates(starved, rates);
  EXPECT_EQ(rates[0], 10.0);
  next_rates(empty, rates);  // below a tenth: nearly nothing was sent
  next_rates(aimless, rates);
  EXPECT_EQ(rates[0], 10.0);
  for (int i = 0; i < 60; ++i) next_rates(flooded, rates);
  EXPECT_EQ(rates[0], 0.1);
}

TEST(Rates, WholeVectorsAndPartsWithoutATargetAimAtNothing) {
  wire::Section sent, whole;
  sent.numel = whole.numel = 1000;
  sent.bytes = 100, whole.bytes = 4000;
  whole.whole = true;
  const std::optional<double> targets[] = {1.0, std::nullopt, 0.5};
  std::vector<Aim> aims;
  const wire::Section first[] = {whole, sent, sent}, second[] = {sent, sent, sent};
  add_aims(first, targets, aims);
  add_aims(second, targets, aims);
  ASSERT_EQ(aims.size(), 3u);
  EXPECT_EQ(aims[0].wanted_bits, 1000.0);
  EXPECT_EQ(aims[0].bytes, 100u);
  EXPECT_EQ(aims[1].wanted_bits, 0.0);
  EXPECT_EQ(aims[1].bytes, 0u);
  EXPECT_EQ(aims[2].wanted_bits, 1000.0);
  EXPECT_EQ(aims[2].bytes, 200u);
}

}  // namespace
}  // namespace tsq
