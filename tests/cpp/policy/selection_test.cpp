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

/// Magnitudes of several kinds: Gaussian, heavy-tailed (also over hundreds of octaves), flat with ties, sparse.
Vector draw(std::mt19937& random, int kind, size_t n) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0, 1);
  Vector g(n);
  for (double& x : g) {
    x = normal(random);
    if (kind == 1) x = std::pow(std::abs(x), 4.0) * (x < 0 ? -1 : 1);
    if (kind == 2) x = std::round(2 * x) / 2;
    if (kind == 3 && uniform(random) < 0.7) x = 0;
    if (kind == 4) x = std::ldexp(x, static_cast<int>(-uniform(random) * 120));
  }
  if (g[0] == 0) g[0] = 1;
  return g;
}

/// The magnitudes that are not zero, largest first.
Vector sorted_of(const Vector& g) {
  Vector out;
  for (const double x : g)
    if (x != 0) out.push_back(std::abs(x));
  std::sort(out.begin(), out.end(), std::greater<>());
  return out;
}

template <class S>
Profile<S> profile_of(const std::vector<S>& g) {
  return Profile<S>(std::span<const S>(g));
}
template <class S>
Cut cut_of(const std::vector<S>& g, double c0, double c1) {
  Profile<S> profile = profile_of(g);
  return best_cut(profile, c0, c1);
}

/// TopK: entries, or whole packets of them that no entry straddles, are added until the ratio falls.
uint64_t first_decrease(const Vector& sorted, const EntryCost& cost) {
  double sum = 0, ratio = 0;
  size_t entries = 0;
  for (double packets = 1; entries < sorted.size(); ++packets) {
    const size_t next =
        cost.affine() ? entries + 1 : std::min(sorted.size(), static_cast<size_t>(packets * cost.per_packet));
    for (size_t i = entries; i < next; ++i) sum += sorted[i] * sorted[i];
    const double next_ratio = sum / cost(static_cast<double>(next));
    if (next_ratio <= ratio) break;
    ratio = next_ratio;
    entries = next;
  }
  return entries;
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
/// Dinkelbach's iteration on all elements.
uint64_t dinkelbach(const Vector& sorted, double fixed) {
  size_t kept = sorted.size() + 1;
  for (double bar = 0;;) {
    size_t count = 0;
    double sum = 0;
    for (; count < sorted.size() && sorted[count] * sorted[count] > bar; ++count) sum += sorted[count] * sorted[count];
    if (count == 0) return 1;
    if (count >= kept) return kept;
    kept = count;
    bar = sum / (fixed + static_cast<double>(count));
  }
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

/// Few elements, or some thousands: one table or several.
size_t length(std::mt19937& random, int trial) { return trial % 20 ? 1 + random() % 60 : 20000 + random() % 9; }

constexpr int kKinds = 5;

TEST(Selection, TheBinsGiveTheExhaustiveBestOfTopK) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 500; ++trial) {
    const Vector g = draw(random, trial % kKinds, length(random, trial)), sorted = sorted_of(g);
    const EntryCost cost{.c0 = trial % 7 ? 30 * uniform(random) : 0, .c1 = 0.1 + uniform(random)};
    const uint64_t first = first_decrease(sorted, cost);
    const Cut cut = cut_of(g, cost.c0, cost.c1);
    EXPECT_EQ(cut.kept, first) << trial;
    EXPECT_EQ(cut.kept, dinkelbach(sorted, cost.c0 / cost.c1)) << trial;
    const double best = g.size() < 100 ? best_ratio(sorted, cost, top_gain) : ratio_at(sorted, cost, first, top_gain);
    EXPECT_NEAR(cut.tau * cut.tau / cost.c1 / best, 1, 1e-12) << trial;  // tau^2 = c1 lambda
    const std::vector<float> narrow(g.begin(), g.end());
    const Vector wide(narrow.begin(), narrow.end());
    EXPECT_EQ(cut_of(narrow, cost.c0, cost.c1).kept, cut_of(wide, cost.c0, cost.c1).kept) << trial;
    EXPECT_EQ(cut_of(narrow, cost.c0, cost.c1).tau, cut_of(wide, cost.c0, cost.c1).tau) << trial;
  }
}

TEST(Selection, BinsHoldTheirMembers) {
  std::mt19937 random(6);
  for (int trial = 0; trial < 100; ++trial) {
    const Vector g = draw(random, trial % kKinds, length(random, trial)), sorted = sorted_of(g);
    Profile<double> profile = profile_of(g);
    EXPECT_EQ(profile.nonzeros(), sorted.size());
    EXPECT_GE(sorted[0] * profile.unit(), 2);
    EXPECT_LT(sorted[0] * profile.unit(), 4);
    size_t at = 0;
    for (size_t b = 0; b < profile.kBins; ++b) {
      EXPECT_EQ(profile.above(b).count, static_cast<double>(at));
      if (profile.above(b + 1).count == profile.above(b).count) continue;
      for (const double y : profile.sorted(b, b + 1)) {
        EXPECT_EQ(y, sorted[at++] * profile.unit());
        EXPECT_EQ(profile.bin_of(y), b);
        EXPECT_TRUE(y >= profile.lower(b) && y < profile.upper(b));
      }
    }
    EXPECT_EQ(at, sorted.size());
  }
}

TEST(Selection, TauSolvesItsEquationAndNoOtherTauBeatsIt) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 100; ++trial) {
    const Vector g = draw(random, trial % kKinds, 1 + random() % 60);
    const double c0 = 0.1 + 30 * uniform(random), c1 = 0.1 + uniform(random);
    const double tau = cut_of(g, c0, c1).tau;
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
  const double tau = cut_of(g, 5, 1).tau;
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

/// The best of all T by brute force, of value(T).
template <class Value>
uint64_t exhaustive(size_t n, double nothing, Value value) {
  uint64_t best = 0;
  for (size_t t = 1; t <= n; ++t)
    if (const double v = value(t); v > nothing) nothing = v, best = t;
  return best;
}

TEST(Selection, PacketsAgainstExhaustiveSearch) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 500; ++trial) {
    const Vector g = draw(random, trial % kKinds, 1 + random() % 60), sorted = sorted_of(g);
    Profile<double> profile = profile_of(g);
    EntryCost whole{.c0 = 5 * uniform(random), .c1 = 1, .per_packet = 1.0 + double(random() % 9)};
    EXPECT_EQ(best_packets(profile, whole), first_decrease(sorted, whole));
    EntryCost straddling = whole;
    straddling.per_packet = 0.3 + 7 * uniform(random);
    straddling.lead = 3 * uniform(random);
    for (const EntryCost& cost : {whole, straddling}) {
      EXPECT_NEAR(ratio_at(sorted, cost, best_packets(profile, cost), top_gain) / best_ratio(sorted, cost, top_gain), 1,
                  1e-12)
          << trial;
      const double unit = profile.unit(), price = top_gain(sorted, sorted.size()) / cost(double(sorted.size()));
      const auto worth = [&](size_t t) { return top_gain(sorted, t) - price * cost(double(t)); };
      const uint64_t priced = best_packets(profile, cost, {price * unit * unit});
      const uint64_t best = exhaustive(sorted.size(), 0.0, worth);
      EXPECT_NEAR(priced ? worth(priced) : 0, best ? worth(best) : 0, 1e-12 * price * cost(double(sorted.size())))
          << trial;
    }
  }
  const Vector many = draw(random, 1, 30000), sorted = sorted_of(many);
  for (const double per_packet : {7.0, 350.0, 9000.0}) {
    Profile<double> profile = profile_of(many);
    const EntryCost cost{.c0 = 40, .c1 = 1, .per_packet = per_packet};
    EXPECT_EQ(best_packets(profile, cost), first_decrease(sorted, cost));
  }
}

/// With probabilities p_j = min(1, |g_j| / tau): E[C(T)], from the distribution of T.
double expected_by_distribution(const Vector& g, double tau, const EntryCost& cost) {
  Vector of(g.size() + 1, 0.0);
  of[0] = 1;
  for (size_t j = 0; j < g.size(); ++j) {
    const double p = g[j] == 0 ? 0 : tau > 0 ? std::min(1.0, std::abs(g[j]) / tau) : 1.0;
    for (size_t t = j + 2; t-- > 0;) of[t] = (t ? of[t - 1] * p : 0) + of[t] * (1 - p);
  }
  double sum = 0;
  for (size_t t = 0; t < of.size(); ++t) sum += of[t] * cost(double(t));
  return sum;
}

/// check(trial, vector, its profile, a source of numbers in [0, 1)) for vectors of the first four kinds.
template <class Check>
void for_each_draw(uint32_t seed, int trials, size_t n, const Check& check) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < trials; ++trial) {
    const Vector g = draw(random, trial % 4, n);
    Profile<double> profile = profile_of(g);
    check(trial, g, profile, [&] { return uniform(random); });
  }
}

TEST(Selection, ExpectedPacketsFollowTheDistributionOfTheDraw) {
  for_each_draw(7, 40, 400, [](int trial, const Vector& g, Profile<double>& profile, const auto& uniform) {
    const double tau = (0.5 + 2 * uniform()) / profile.unit() * 2;
    const EntryCost cost{.c0 = 1, .c1 = 1, .per_packet = 2 + 40 * uniform(), .lead = 3 * uniform()};
    const Draw drawn = draw_at(profile, tau * profile.unit());
    double mean = 0, variance = 0;
    for (const double x : g) {
      const double p = std::min(1.0, std::abs(x) / tau);
      mean += p;
      variance += p * (1 - p);
    }
    EXPECT_NEAR(drawn.entries / mean, 1, 1e-12);
    EXPECT_NEAR(drawn.variance, variance, 1e-9 * mean);
    EXPECT_NEAR(expected_cost(cost, mean, variance) / expected_by_distribution(g, tau, cost), 1, 0.03) << trial;
  });
  EXPECT_EQ(expected_cost({.c0 = 1, .c1 = 2}, 10, 4), 21);
  EXPECT_EQ(expected_cost({.c0 = 1, .c1 = 2, .per_packet = 5}, 10, 0), 5);
}

TEST(Selection, SparsifierLeavesRoomInItsPackets) {
  for_each_draw(8, 60, 300, [](int trial, const Vector& g, Profile<double>& profile, const auto& uniform) {
    const EntryCost cost{.c0 = 0.5 * uniform(), .c1 = 1, .per_packet = 20 + 60 * uniform(), .lead = 10 * uniform()};
    const auto ratio = [&](double tau) { return sparsifier(g, tau).first / expected_by_distribution(g, tau, cost); };
    const double chosen = ratio(best_packets_threshold(profile, cost));
    double best = ratio(0);
    for (double tau = 4 / profile.unit(); tau > 1e-3 / profile.unit(); tau /= 1.01) best = std::max(best, ratio(tau));
    EXPECT_GT(chosen, 0.97 * best) << trial;
  });
  // Flat, a packet of 100: an expected count of 100 costs two packets half of the time.
  const Vector flat(300, 1.0);
  Profile<double> profile = profile_of(flat);
  const double tau = best_packets_threshold(profile, {.c0 = 0, .c1 = 1, .per_packet = 100});
  const Draw drawn = draw_at(profile, tau * profile.unit());
  EXPECT_EQ(drawn.entries, 300);  // what does not vary does not run over
  const double dear = best_packets_threshold(profile, {.c0 = 0, .c1 = 1, .per_packet = 100, .lead = 50});
  const Draw spare = draw_at(profile, dear * profile.unit());
  EXPECT_LT(spare.entries + std::sqrt(spare.variance), std::round((spare.entries + 50) / 100) * 100 - 50 + 1e-9);
}

TEST(Selection, SignsAreTheExhaustiveBest) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int trial = 0; trial < 600; ++trial) {
    const Vector g = draw(random, trial % kKinds, trial % 20 ? 1 + random() % 60 : 2000), sorted = sorted_of(g);
    Profile<double> profile = profile_of(g);
    EntryCost cost{.c0 = 30 * uniform(random), .c1 = uniform(random)};
    if (trial % 2) cost.per_packet = 0.5 + 5 * uniform(random);
    Vector sums(1, 0.0);
    for (const double y : sorted) sums.push_back(sums.back() + y);
    const auto gain = [&](size_t t) { return sums[t] * sums[t] / double(t); };
    const auto ratio = [&](size_t t) { return gain(t) / cost(double(t)); };
    EXPECT_NEAR(ratio(best_signs(profile, cost)) / ratio(exhaustive(sorted.size(), 0, ratio)), 1, 1e-12) << trial;
    const double scale = gain(sorted.size()), price = scale / cost(double(sorted.size())) * 2 * uniform(random);
    const auto worth = [&](size_t t) { return gain(t) - price * cost(double(t)); };
    const uint64_t found = best_signs(profile, cost, {price * profile.unit() * profile.unit()});
    const uint64_t best = exhaustive(sorted.size(), 0, worth);
    EXPECT_NEAR((found ? worth(found) : 0) / scale, (best ? worth(best) : 0) / scale, 1e-12) << trial;
  }
  // beta falls from 1 entry to 2 and rises again: whoever stops at the first decrease sends one entry.
  Vector flat(1001, 0.3);
  flat[0] = 1;
  EXPECT_LT(sign_gain(flat, 2), sign_gain(flat, 1));
  Profile<double> profile = profile_of(flat);
  EXPECT_EQ(best_signs(profile, {.c0 = 1, .c1 = 1e-6}), 1001u);
}

TEST(Selection, DegenerateCases) {
  const Vector zero(5, 0.0), g = {0.5, -2, 1, 0, 2};
  for (const Vector& empty : {Vector{}, zero}) {
    Profile<double> profile = profile_of(empty);
    EXPECT_EQ(best_cut(profile, 1, 1).kept, 0u);
    EXPECT_EQ(best_cut(profile, 1, 1).tau, 0);
    EXPECT_EQ(best_packets(profile, {.c0 = 1, .c1 = 1, .per_packet = 3}), 0u);
    EXPECT_EQ(best_signs(profile, {.c0 = 1, .c1 = 1}), 0u);
    EXPECT_EQ(best_packets_threshold(profile, {.c0 = 1, .c1 = 1, .per_packet = 3}), 0);
  }
  // Without a fixed cost: one entry, and the largest number of expected entries, |g|_1 / |g|_inf.
  const Cut cut = cut_of(g, 0, 1);
  EXPECT_EQ(cut.kept, 1u);
  EXPECT_EQ(cut.tau, 2);
  EXPECT_EQ(sparsifier(g, cut.tau).second, 2.75);
  // Entries for nothing: all that are not zero.
  EXPECT_EQ(cut_of(g, 1, 0).kept, 4u);
  EXPECT_EQ(cut_of(g, 1, 0).tau, 0);
  // A fixed cost that dwarfs the entries': all of them too, but no zeros.
  EXPECT_EQ(cut_of(g, 1e9, 1).kept, 4u);
}

TEST(Selection, HugeAndTinyMagnitudes) {
  for (const double scale : {1e300, 1e-300, 0x1p-1070, 1.0}) {
    Vector g = {8 * scale, -4 * scale, 2 * scale, scale, scale};
    EXPECT_EQ(cut_of(g, 5, 1).kept, 2u) << scale;  // 64/6, 80/7, 84/8, ...
    Profile<double> profile = profile_of(g);
    EXPECT_EQ(best_signs(profile, {.c0 = 5, .c1 = 1}), 1u) << scale;                     // 64/6, 72/7, 65.3/8, ...
    EXPECT_EQ(best_packets(profile, {.c0 = 4, .c1 = 1, .per_packet = 2}), 2u) << scale;  // 80/5, 85/6, ...
  }
  std::vector<float> narrow = {0x1p127f, 0x1p126f, 0x1p-149f};
  EXPECT_EQ(cut_of(narrow, 4, 1).kept, 2u);
  const std::vector<float> denormal = {8 * 0x1p-149f, -4 * 0x1p-149f, 2 * 0x1p-149f, 0x1p-149f, 0, 0x1p-149f};
  EXPECT_EQ(cut_of(denormal, 5, 1).kept, 2u);
  EXPECT_EQ(cut_of(denormal, 5, 1).tau, std::sqrt(80.0 / 7) * 0x1p-149);
}

}  // namespace
}  // namespace tsq
