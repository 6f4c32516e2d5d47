// Smoothness of losses f(x) = (1/m) sum_l phi_l(a_l^T x) + (l2/2) |x|^2 with phi'' <= c, from their rows a_l:
// L = (c/m) A^T A + l2 I. Logistic loss log(1 + exp(-b a^T x)), b = +-1: c = 1/4; least squares r^2 / 2: c = 1. And
// diagonals D >= L, which cost O(non-zeros) but for the first. Source: docs/smoothness.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tsq {

/// A sparse m x d matrix by rows. Does not own its memory.
struct Rows {
  size_t columns = 0;               ///< d
  std::span<const int64_t> starts;  ///< m + 1
  std::span<const int64_t> places;  ///< of each value, its column
  std::span<const double> values;
  size_t count() const { return starts.empty() ? 0 : starts.size() - 1; }  ///< m
};

struct Curvature {
  double c = 1;   ///< bound of phi''
  double l2 = 0;  ///< >= 0
};

/// Throws ArgumentError unless the rows are well-formed and finite, at least one, and c > 0, l2 >= 0.
void check_rows(const Rows& rows, Curvature curvature);

/// L, d x d. O(sum over rows of non-zeros^2).
std::vector<double> hessian_bound(const Rows& rows, Curvature curvature);

/// The diagonal of L.
std::vector<double> hessian_diagonal(const Rows& rows, Curvature curvature);

/// Bounds of lambda_max(L) by `iterations` steps of power iteration, which never forms A^T A: from below the Rayleigh
/// quotient; from above the largest (M v)_j / v_j of M = (c/m) |A|^T |A| and a positive v (Collatz, Wielandt), with
/// which lambda_max(L) <= lambda_max(M) + l2; it tends to lambda_max itself where the entries of A have one sign.
struct Bounds {
  double low = 0, high = 0;
};
Bounds bound_lambda_max(const Rows& rows, Curvature curvature, int iterations = 200);

/// Diagonal majorisers D >= L.
enum class Majoriser : uint8_t {
  kGershgorin,  ///< sum_l |L_jl|; forms L
  kRowSums,     ///< (c/m) sum_l |a_lj| |a_l|_1 + l2; not less than the former
  kRowCounts,   ///< (c/m) sum_l |a_l|_0 a_lj^2 + l2
  kDimension,   ///< d L_jj
  kLambdaMax,   ///< lambda_max(L) from above, in every entry
};
std::vector<double> majoriser(Majoriser rule, const Rows& rows, Curvature curvature);

}  // namespace tsq
