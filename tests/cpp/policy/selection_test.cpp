// The selection rules of CAT against exhaustive search and against their own equations.
#include "policy/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

namespace tsq {
namespace {

using Vector = std::vector<double>;

/// Magnitudes of several kinds: Gaussian, heavy-tailed, flat with ties, sparse.
Vector draw(std::mt19937& random, int kind, size_t n) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0, 1);
  Vector g(n);
  for (double& x : g) {
    x = normal(random);
    if (kind == 1) x = std::pow(std::abs(x), 4.0) * (x < 0 ? -1 : 1);
    if (kind == 2) x = std::round(2 * x) / 2;
    if (kind == 3 && uniform(random) < 0.7) x = 0;
  }
  if (g[0] == 0) g[0] = 1;
  return g;
}

Vector sorted_of(const Vector& g) {
  double unit = 0;
  return sorted_magnitudes(std::span<const double>(g), &unit);
}

double top_gain(const Vector& sorted, size_t t) {
  return std::inner_product(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(t), sorted.begin(), 0.0);
}
double sign_gain(const Vector& sorted, size_t t) {
  const double sum = std::accumulate(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(t), 0.0);
  return sum * sum / static_cast<double>(t);
}

using Gain = std::function<double(const Vector&, size_t)>;

double ratio_at(const Vector& sorted, const EntryCost& cost, size_t t, const Gain& gain) {
  return gain(sorted, t) / cost(static_cast<double>(t));
}
double best_ratio(const Vector& sorted, const EntryCost& cost, const Gain& gain) {
  double best = 0;
  for (size_t t = 1; t <= sorted.size(); ++t) best = std::max(best, ratio_at(sorted, cost, t, gain));
  return best;
}

/// V / |g|^2 and T at a threshold.
std::pair<double, double> sparsifier(const Vector& g, double tau) {
  double moment = 0, norm = 0, entries = 0;
  for (const double x : g) {
    if (x == 0) continue;
    const double p = tau > 0 ? std::min(1.0, std::abs(x) / tau) : 1.0;
    moment += x * x / p;
    norm += x * x;
    entries += p;
  }
  return {norm / moment, entries};
}

TEST(Selection, FirstDecreaseAndDinkelbachAreTheExhaustiveBest) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 400; ++trial) {
    const Vector g = draw(random, trial % 4, 1 + random() % 60), sorted = sorted_of(g);
    const EntryCost cost{.c0 = trial % 7 ? 30 * uniform(random) : 0, .c1 = 0.1 + uniform(random)};
    const double best = best_ratio(sorted, cost, top_gain);
    const uint64_t first = first_decrease(sorted, cost);
    EXPECT_NEAR(ratio_at(sorted, cost, first, top_gain) / best, 1, 1e-12);
    const Cut cut = best_cut(std::span<const double>(g), cost.c0, cost.c1);
    EXPECT_EQ(cut.kept, first) << trial;
    double unit = 0;
    sorted_magnitudes(std::span<const double>(g), &unit);
    EXPECT_NEAR(cut.tau * unit * cut.tau * unit / cost.c1 / best, 1, 1e-12) << trial;  // tau^2 = c1 lambda
    const std::vector<float> narrow(g.begin(), g.end());
    const Vector wide(narrow.begin(), narrow.end());
    EXPECT_EQ(best_cut(std::span<const float>(narrow), cost.c0, cost.c1).kept,
              best_cut(std::span<const double>(wide), cost.c0, cost.c1).kept);
  }
}

TEST(Selection, TauSolvesItsEquationAndNoOtherTauBeatsIt) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 100; ++trial) {
    const Vector g = draw(random, trial % 4, 1 + random() % 60);
    const double c0 = 0.1 + 30 * uniform(random), c1 = 0.1 + uniform(random);
    const double tau = best_cut(std::span<const double>(g), c0, c1).tau;
    double excess = 0;
    for (const double x : g) excess += std::max(0.0, x * x - tau * tau);
    EXPECT_NEAR(c0 * tau * tau / (c1 * excess), 1, 1e-12);
    const auto ratio = [&](double at) {
      const auto [omega, entries] = sparsifier(g, at);
      return omega / (c0 + c1 * entries);
    };
    for (double factor = 0.02; factor < 50; factor *= 1.03) EXPECT_LE(ratio(tau * factor), ratio(tau) * (1 + 1e-12));
  }
}

TEST(Selection, OptimalProbabilitiesBeatOthers) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> uniform(0, 1);
  const Vector g = draw(random, 1, 25);
  const double tau = best_cut(std::span<const double>(g), 5, 1).tau;
  const auto [omega, entries] = sparsifier(g, tau);
  const double norm = std::inner_product(g.begin(), g.end(), g.begin(), 0.0);
  for (int trial = 0; trial < 1000; ++trial) {
    Vector p(g.size());
    for (double& x : p) x = std::pow(uniform(random), 3.0) + 1e-3;
    for (;;) {  // scaled to the same expected number, at most 1 each
      double sum = 0, free = 0;
      for (const double x : p) x >= 1 ? sum += 1 : free += x;
      if (std::abs(sum + free - entries) < 1e-12 || free == 0) break;
      for (double& x : p)
        if (x < 1) x = std::min(1.0, x * (entries - sum) / free);
    }
    double moment = 0;
    for (size_t j = 0; j < g.size(); ++j) moment += g[j] * g[j] / p[j];
    EXPECT_LE(norm / moment, omega * (1 + 1e-12));
  }
}

TEST(Selection, PacketsAgainstExhaustiveSearch) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 400; ++trial) {
    const Vector g = draw(random, trial % 4, 1 + random() % 60), sorted = sorted_of(g);
    EntryCost whole{.c0 = 5 * uniform(random), .c1 = 1, .per_packet = 1.0 + double(random() % 9)};
    EXPECT_NEAR(ratio_at(sorted, whole, first_decrease(sorted, whole), top_gain) / best_ratio(sorted, whole, top_gain),
                1, 1e-12);
    EntryCost straddling = whole;
    straddling.per_packet = 0.3 + 7 * uniform(random);
    straddling.lead = 3 * uniform(random);
    for (const EntryCost& cost : {whole, straddling}) {
      EXPECT_NEAR(ratio_at(sorted, cost, best_packets(sorted, cost), top_gain) / best_ratio(sorted, cost, top_gain), 1,
                  1e-12)
          << trial;
      if (trial % 8) continue;
      const double tau = best_packets_threshold(sorted, cost);
      const auto [omega, entries] = sparsifier(sorted, tau);
      const double ratio = omega / cost(entries - 1e-9);  // at a packet's edge
      for (double t = 1; t <= double(sorted.size()); t += 0.25) {
        double low = 0, high = 1e3;  // the tau of t entries
        for (int i = 0; i < 60; ++i) (sparsifier(sorted, (low + high) / 2).second > t ? low : high) = (low + high) / 2;
        EXPECT_LE(sparsifier(sorted, high).first / cost(t), ratio * (1 + 1e-9)) << trial;
      }
    }
  }
}

TEST(Selection, SignsAreScannedToTheEnd) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 400; ++trial) {
    const Vector sorted = sorted_of(draw(random, trial % 4, 1 + random() % 60));
    EntryCost cost{.c0 = 30 * uniform(random), .c1 = uniform(random)};
    if (trial % 2) cost.per_packet = 0.5 + 5 * uniform(random);
    EXPECT_NEAR(ratio_at(sorted, cost, best_signs(sorted, cost), sign_gain) / best_ratio(sorted, cost, sign_gain), 1,
                1e-12);
    const double price = 0.2 * uniform(random);
    double best = 0;
    for (size_t t = 1; t <= sorted.size(); ++t)
      best = std::max(best, sign_gain(sorted, t) - price * static_cast<double>(t));
    const uint64_t found = best_signs_at_price(sorted, price);
    EXPECT_NEAR(found ? sign_gain(sorted, found) - price * static_cast<double>(found) : 0, best, 1e-12);
  }
  // beta falls from 1 entry to 2 and rises again: whoever stops at the first decrease sends one entry.
  Vector flat(1001, 0.3);
  flat[0] = 1;
  EXPECT_LT(sign_gain(flat, 2), sign_gain(flat, 1));
  EXPECT_EQ(best_signs(flat, {.c0 = 1, .c1 = 1e-6}), 1001u);
}

TEST(Selection, DegenerateCases) {
  const Vector zero(5, 0.0), g = {0.5, -2, 1, 0, 2};
  for (const Vector& empty : {Vector{}, zero}) {
    EXPECT_EQ(best_cut(std::span<const double>(empty), 1, 1).kept, 0u);
    EXPECT_EQ(best_cut(std::span<const double>(empty), 1, 1).tau, 0);
    const Vector sorted = sorted_of(empty);
    EXPECT_TRUE(sorted.empty());
    EXPECT_EQ(first_decrease(sorted, {.c0 = 1, .c1 = 1}), 0u);
    EXPECT_EQ(best_packets(sorted, {.c0 = 1, .c1 = 1, .per_packet = 3}), 0u);
    EXPECT_EQ(best_signs(sorted, {.c0 = 1, .c1 = 1}), 0u);
    EXPECT_EQ(best_packets_threshold(sorted, {.c0 = 1, .c1 = 1, .per_packet = 3}), 0);
  }
  // Without a fixed cost: one entry, and the largest number of expected entries, |g|_1 / |g|_inf.
  const Cut cut = best_cut(std::span<const double>(g), 0, 1);
  EXPECT_EQ(cut.kept, 1u);
  EXPECT_EQ(cut.tau, 2);
  EXPECT_EQ(sparsifier(g, cut.tau).second, 2.75);
  // Entries for nothing: all that are not zero.
  EXPECT_EQ(best_cut(std::span<const double>(g), 1, 0).kept, 4u);
  EXPECT_EQ(best_cut(std::span<const double>(g), 1, 0).tau, 0);
  // A fixed cost that dwarfs the entries': all of them too, but no zeros.
  EXPECT_EQ(best_cut(std::span<const double>(g), 1e9, 1).kept, 4u);
}

TEST(Selection, HugeAndTinyMagnitudes) {
  for (const double scale : {1e300, 1e-300, 0x1p-1070, 1.0}) {
    Vector g = {8 * scale, -4 * scale, 2 * scale, scale, scale};
    EXPECT_EQ(best_cut(std::span<const double>(g), 5, 1).kept, 2u) << scale;  // 64/6, 80/7, 84/8, ...
    EXPECT_EQ(first_decrease(sorted_of(g), {.c0 = 5, .c1 = 1}), 2u) << scale;
  }
  std::vector<float> narrow = {0x1p127f, 0x1p126f, 0x1p-149f};
  EXPECT_EQ(best_cut(std::span<const float>(narrow), 4, 1).kept, 2u);
}

}  // namespace
}  // namespace tsq
