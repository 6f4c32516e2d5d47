// Class constants against the exact variance of the vectors that are worst for them: equal to 1e-12, no sampling. The
// variance of an element is t (1 - t) step^2, t what is left of it above the level below.
#include <gtest/gtest.h>

#include <cmath>

#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

double omega(const std::string& spec, size_t n, uint32_t world = 1) {
  return *parse_compressor(spec)->as_unbiased()->class_of(n, world).omega;
}

/// sum t (1 - t) / s^2 over |y|^2, in units of the norm: y are magnitudes over the norm that the levels refer to.
double relative_variance(const std::vector<double>& y, double s) {
  double variance = 0, norm = 0;
  for (const double v : y) {
    const double t = v * s - std::floor(v * s);
    variance += t * (1 - t) / (s * s);
    norm += v * v;
  }
  return variance / norm;
}

/// One element of 1, the others at `fraction` of the first of s levels.
std::vector<double> one_and(size_t d, double s, double fraction) {
  std::vector<double> y(d, fraction / s);
  y[0] = 1;
  return y;
}

TEST(WorstVectors, OfTheMaximumNormAttainOmega) {
  for (const size_t d : {size_t{2}, size_t{33}, size_t{256}, size_t{4096}}) {
    const auto worst = [&](double s) {
      return relative_variance(one_and(d, s, 1 / (1 + std::sqrt(1 + double(d - 1) / (s * s)))), s);
    };
    for (int bits = 2; bits <= 8; ++bits) {
      const double s = (1 << (bits - 1)) - 1;
      EXPECT_NEAR(omega(concat("Quantizer(bits=", bits, ", block=4096, levels='unbiased')"), d), worst(s),
                  1e-12 * std::max(1.0, worst(s)));
    }
    EXPECT_NEAR(omega("Ternary(block=4096)", d), worst(1), 1e-12 * std::max(1.0, worst(1)));
    for (const int s : {1, 5, 100, 32767})
      EXPECT_NEAR(omega(concat("Dithering(levels=", s, ", norm='inf')"), d), worst(s), 1e-12 * std::max(1.0, worst(s)));
  }
}

TEST(WorstVectors, OneBitHasTwoLevels) {  // +-N: variance N^2 - x^2, the worst vector has one element
  for (const size_t d : {size_t{1}, size_t{32}, size_t{256}}) {
    const double variance = double(d - 1);  // of the d - 1 zeros, and none of the largest
    EXPECT_NEAR(omega("Quantizer(bits=1, levels='unbiased')", d), variance, 1e-12 * variance);
  }
}

TEST(WorstVectors, OfTheTwoNormAttainOmega) {
  for (const size_t d : {size_t{64}, size_t{1024}, size_t{65536}}) {
    const double root = std::sqrt(double(d));
    const std::vector<double> equal(d, 1 / root);
    for (double s = 1; s <= root / 2; s *= 2)
      EXPECT_NEAR(omega(concat("Dithering(levels=", int(s), ")"), d), relative_variance(equal, s), 1e-12 * root) << s;
    for (const double s : {1.5 * root, 2.5 * root, 10.5 * root}) {  // every element in the middle of two levels
      const double found = omega(concat("Dithering(levels=", int(s), ")"), d);
      EXPECT_NEAR(found, relative_variance(equal, s), 1e-12) << d << ' ' << s;
    }
  }
}

TEST(WorstVectors, OfPowersOfTwoAttainAnEighth) {
  const double m = 1.0 / 3;  // between 1 and 2: m (1 - m) / (1 + m)^2
  EXPECT_NEAR(omega("Natural()", 1000), m * (1 - m) / ((1 + m) * (1 + m)), 1e-15);
  for (double other = 0; other < 1; other += 1e-3)
    EXPECT_LE(other * (1 - other) / ((1 + other) * (1 + other)), 0.125 + 1e-15);
  // NaturalDithering: all elements in the middle of zero and the lowest level, g small; a bound, met but for its 1/8.
  const double s = 12, lowest = std::exp2(1 - s), d = 4096, g = lowest * std::sqrt(d);
  EXPECT_NEAR(omega("NaturalDithering(levels=12)", 4096), 0.125 + g * std::min(1.0, g), 1e-12);
}

// Random inputs of every kind stay below; heavy tails and level boundaries among them.
TEST(WorstVectors, NoOtherVectorIsWorse) {
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  for (int trial = 0; trial < 4000; ++trial) {
    const size_t d = 4 + random() % 37;
    const int s = 1 + int(random() % 9);
    std::vector<double> y(d);
    for (double& v : y) {
      v = std::abs(normal(random));
      if (trial % 4 == 1) v *= std::pow(10, -2 * uniform(random));
      if (trial % 4 == 2) v = double(random() % size_t(s + 1)) / s + (random() % 2 ? 1e-9 : 0);
      if (trial % 4 == 3) v = random() % 3 ? 0.5 : 1e-3;
    }
    double largest = 0, two = 0;
    for (const double v : y) largest = std::max(largest, v), two += v * v;
    if (largest == 0) continue;
    std::vector<double> by_max(y), by_two(y);
    for (size_t i = 0; i < d; ++i) by_max[i] /= largest, by_two[i] /= std::sqrt(two);
    EXPECT_LE(relative_variance(by_max, s), omega(concat("Dithering(levels=", s, ", norm='inf')"), d) + 1e-12);
    EXPECT_LE(relative_variance(by_two, s), omega(concat("Dithering(levels=", s, ")"), d) + 1e-12);
  }
}

}  // namespace
}  // namespace tsq
