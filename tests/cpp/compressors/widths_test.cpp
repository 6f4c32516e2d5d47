// Water-filling on whole widths, against trying everything.
#include "compressors/widths.h"

#include <gtest/gtest.h>

#include <numeric>

#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

double noise_of(std::span<const double> weights, std::span<const uint8_t> widths, NoiseCurve curve) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) sum += weights[i] * relative_noise(curve, widths[i]);
  return sum;
}

uint64_t cost_of(std::span<const uint8_t> widths, std::span<const uint64_t> sizes) {
  uint64_t cost = 0;
  for (size_t i = 0; i < widths.size(); ++i) cost += widths[i] * (sizes.empty() ? 1 : sizes[i]);
  return cost;
}

/// The least noise of all widths of this cost at most.
double best_noise(std::span<const double> weights, std::span<const uint64_t> sizes, uint64_t budget,
                  const WidthLimits& limits) {
  std::vector<uint8_t> widths(weights.size(), static_cast<uint8_t>(limits.least));
  double best = HUGE_VAL;
  while (true) {
    if (cost_of(widths, sizes) <= budget) best = std::min(best, noise_of(weights, widths, limits.curve));
    size_t i = 0;
    while (i < widths.size() && widths[i] == kMaxWidth) widths[i++] = static_cast<uint8_t>(limits.least);
    if (i == widths.size()) return best;
    ++widths[i];
  }
}

std::vector<double> random_weights(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> exponent(-4, 4);
  std::vector<double> out(n);
  for (double& w : out) w = std::pow(10.0, exponent(random));
  return out;
}

TEST(Widths, AreTheBestOfEqualSizes) {
  for (const NoiseCurve curve : {NoiseCurve::kFit, NoiseCurve::kUnbiased})
    for (uint64_t seed = 0; seed < 30; ++seed)
      for (const uint64_t total : {4u, 5u, 9u, 16u, 31u, 32u}) {
        const WidthLimits limits{curve, seed % 3 == 0 && total >= 8 ? 2 : 1};
        const std::vector<double> weights = random_weights(4, seed);
        const std::vector<uint8_t> widths = allocate_widths(weights, total, limits);
        EXPECT_EQ(cost_of(widths, {}), total);
        EXPECT_NEAR(noise_of(weights, widths, curve), best_noise(weights, {}, total, limits),
                    1e-12 * noise_of(weights, widths, curve))
            << seed << " " << total;
      }
}

TEST(Widths, OfOtherSizesAreTheBestOfWhatTheyUse) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    std::mt19937_64 random(seed);
    const std::vector<double> weights = random_weights(4, seed);
    std::vector<uint64_t> sizes;
    for (int i = 0; i < 4; ++i) sizes.push_back(1 + random() % 20);
    const uint64_t all = std::accumulate(sizes.begin(), sizes.end(), uint64_t{0}), budget = all + random() % (7 * all);
    const std::vector<uint8_t> widths = allocate_widths(weights, sizes, budget, {});
    const uint64_t used = cost_of(widths, sizes);
    EXPECT_LE(used, budget);
    const bool full = std::all_of(widths.begin(), widths.end(), [](uint8_t w) { return w == kMaxWidth; });
    if (!full) {
      EXPECT_GT(used + *std::max_element(sizes.begin(), sizes.end()), budget) << seed;
    }
    // What was not affordable at the end could only be bought by giving up something that removes more for its cost.
    EXPECT_LE(noise_of(weights, widths, NoiseCurve::kFit),
              best_noise(weights, sizes, budget - *std::max_element(sizes.begin(), sizes.end()), {}) + 1e-12)
        << seed;
  }
}

TEST(Widths, FollowTheFormulaWhereNoiseFallsByFour) {
  // b_i = mean + 1/2 log2 w_i - average: two items, four bits apart for a ratio of 4^4.
  const std::vector<double> weights = {1.0, 256.0};
  const std::vector<uint8_t> widths = allocate_widths(weights, 12, {NoiseCurve::kUnbiased, 4});
  EXPECT_EQ(widths, (std::vector<uint8_t>{4, 8}));
}

TEST(Widths, TiesZerosAndNonsenseHaveAnOrder) {
  EXPECT_EQ(allocate_widths(std::vector<double>(4, 1.0), 6, {}), (std::vector<uint8_t>{2, 2, 1, 1}));
  const std::vector<double> odd = {0.0, NAN, -1.0, INFINITY, 1e-300};
  EXPECT_EQ(allocate_widths(odd, 12, {}), (std::vector<uint8_t>{1, 1, 1, 1, 8}));
  EXPECT_EQ(allocate_widths(odd, 13, {}), (std::vector<uint8_t>{2, 1, 1, 1, 8}));
  EXPECT_EQ(allocate_widths(odd, 3, {}), std::vector<uint8_t>(5, 1));
  EXPECT_EQ(allocate_widths(odd, 1000, {}), std::vector<uint8_t>(5, 8));
  EXPECT_TRUE(allocate_widths(std::span<const double>(), 7, {}).empty());
}

TEST(Widths, TheCurveIsTheQuantizers) {
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal;
  test::Vector x(DType::kFloat32, 1 << 16);
  double square = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    x.set(i, normal(random));
    square += x[i] * x[i];
  }
  for (int bits = 1; bits <= kMaxWidth; ++bits) {
    const CompressorPtr c = parse_compressor(concat("Quantizer(bits=", bits, ", levels='fit')"));
    const test::Vector e(DType::kFloat32, x.size());
    std::vector<uint8_t> out(c->max_bytes(x.size(), DType::kFloat32));
    c->encode_residual(x.view(), e.view(), {}, out);
    double left = 0;
    for (size_t i = 0; i < x.size(); ++i) left += e[i] * e[i];
    EXPECT_NEAR(left / square, relative_noise(NoiseCurve::kFit, bits), 0.03 * left / square) << bits;
    if (bits > 2) {
      EXPECT_LT(relative_noise(NoiseCurve::kFit, bits - 1) - relative_noise(NoiseCurve::kFit, bits),
                relative_noise(NoiseCurve::kFit, bits - 2) - relative_noise(NoiseCurve::kFit, bits - 1));
    }
  }
}

}  // namespace
}  // namespace tsq
