// How many entries give the most guaranteed descent per unit of cost. Pure functions of an energy profile
// (policy/profile.h) and a cost: what they find is exact, to rounding of sums; elements are looked at where the best
// number may be. Mathematics and proofs: docs/cat.md.
//
// With I the T largest of |g_j|, S = sum_I |g_j|, the descent of a step is proportional to
//   TopK                  sum_I g_j^2
//   SparseSign            S^2 / T
//   StochasticSparsifier  |g|^4 / V, V = sum_j g_j^2 / p_j, p_j = min(1, |g_j| / tau), T = sum_j p_j
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "policy/cost.h"
#include "policy/profile.h"

namespace tsq {

/// What is maximised: gain / cost or, with a price, gain - price * cost. Gains in units of the profile.
struct Objective {
  std::optional<double> price = {};
  double operator()(double gain, double cost) const { return price ? gain - *price * cost : gain / cost; }
};

/// The solution of c0 tau^2 = c1 sum_j (g_j^2 - tau^2)_+: TopK's best T is the number of |g_j| > tau, and tau is
/// StochasticSparsifier's own. The best ratio of TopK is tau^2 / c1.
struct Cut {
  double tau = 0;     ///< in units of g. c0 = 0: the largest magnitude; c1 = 0 or g = 0: 0
  uint64_t kept = 0;  ///< of the |g_j| above it; if none are (c0 = 0): 1. 0 for g = 0
};

/// By Dinkelbach's iteration on the bins, and then in the bin that it ends in. c0, c1 >= 0, not both 0.
template <class S>
Cut best_cut(Profile<S>& profile, double c0, double c1);

/// How many magnitudes are above tau; O(n).
template <class S>
uint64_t count_above(std::span<const S> g, double tau);

/// TopK: the best of all numbers of full packets, the smallest of equally good ones; 0 for g = 0.
template <class S>
uint64_t best_packets(Profile<S>& profile, const EntryCost& cost, const Objective& objective = {});

/// SparseSign: the best of all T, the smallest of equally good ones; its objective may fall and rise again. 0 for g =
/// 0, and with a price if nothing is worth it.
template <class S>
uint64_t best_signs(Profile<S>& profile, const EntryCost& cost, const Objective& objective = {});

/// StochasticSparsifier: tau, in units of g; 0: all are sent. The number that is drawn varies about the expected one,
/// and half of the time is above it: the cost is E[C(T)], T Poisson-binomial, here normal with its mean and variance.
/// Tried are the numbers of packets beside the one that would be best if T did not vary, each with expected numbers of
/// 0 to 4 standard deviations less than fill it: near the best, not exact.
template <class S>
double best_packets_threshold(Profile<S>& profile, const EntryCost& cost);

/// What StochasticSparsifier does with a threshold, in units of the profile.
struct Draw {
  double entries = 0;   ///< expected
  double variance = 0;  ///< of the number that is drawn
  double moment = 0;    ///< V
};
/// With tau = 0 all are certain. Not `exactly`: the bin that tau cuts counts as below it, which takes no sweep.
template <class S>
Draw draw_at(Profile<S>& profile, double tau, bool exactly = true);

/// E[C(T)] for a normal T with this mean and variance. O(deviation / packet).
double expected_cost(const EntryCost& cost, double mean, double variance);

}  // namespace tsq
