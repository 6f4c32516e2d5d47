// How many entries give the most guaranteed descent per unit of cost. Pure functions of magnitudes and a cost; sums in
// double, in a fixed order. Mathematics and proofs: docs/cat.md.
//
// With I the T largest of |g_j|, S = sum_I |g_j|, the descent of a step is proportional to
//   TopK                  sum_I g_j^2
//   SparseSign            S^2 / T
//   StochasticSparsifier  |g|^4 / V, V = sum_j g_j^2 / p_j, p_j = min(1, |g_j| / tau), T = sum_j p_j
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/cost.h"

namespace tsq {

/// The solution of c0 tau^2 = c1 sum_j (g_j^2 - tau^2)_+: TopK's best T is the number of |g_j| > tau, and tau is
/// StochasticSparsifier's own. The best ratio of TopK is tau^2 / c1.
struct Cut {
  double tau = 0;     ///< c0 = 0: the largest magnitude; c1 = 0 or g = 0: 0
  uint64_t kept = 0;  ///< of the |g_j| above it; if none are (c0 = 0): 1. 0 for g = 0
};

/// By Dinkelbach's iteration, without sorting: O(n) times 4 to 6. c0, c1 >= 0, not both 0. Any magnitudes, all finite.
/// S: float or double.
template <class S>
Cut best_cut(std::span<const S> g, double c0, double c1);

/// How many magnitudes are above tau.
template <class S>
uint64_t count_above(std::span<const S> g, double tau);

/// The non-zero magnitudes, largest first, times a power of two that makes the largest one lie in [1, 2), so that no
/// square overflows. O(n log n).
template <class S>
std::vector<double> sorted_magnitudes(std::span<const S> g, double* unit);

/// The functions below: `sorted` as sorted_magnitudes leaves them; 0 if it is empty.

/// TopK: adds entries, or whole packets of them, until the ratio falls. Exact for affine costs and for packets that no
/// entry straddles (lead = 0).
uint64_t first_decrease(std::span<const double> sorted, const EntryCost& cost);

/// TopK: the best of all numbers of full packets.
uint64_t best_packets(std::span<const double> sorted, const EntryCost& cost);

/// SparseSign: the best of all T; its ratio may fall and rise again. O(n).
uint64_t best_signs(std::span<const double> sorted, const EntryCost& cost);

/// StochasticSparsifier: tau, in the units of `sorted`, at the best of all numbers of full packets; 0: all are sent.
double best_packets_threshold(std::span<const double> sorted, const EntryCost& cost);

/// SparseSign: the T that maximises S^2 / T - price T; 0 if nothing is worth its price.
uint64_t best_signs_at_price(std::span<const double> sorted, double price);

extern template Cut best_cut(std::span<const float>, double, double);
extern template Cut best_cut(std::span<const double>, double, double);
extern template uint64_t count_above(std::span<const float>, double);
extern template uint64_t count_above(std::span<const double>, double);
extern template std::vector<double> sorted_magnitudes(std::span<const float>, double*);
extern template std::vector<double> sorted_magnitudes(std::span<const double>, double*);

}  // namespace tsq
