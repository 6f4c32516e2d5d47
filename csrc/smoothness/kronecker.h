// Bases in which the gradient of a matrix is nearly uncorrelated: the eigenvectors of running averages of G G^T and G^T
// G (Shampoo's and SOAP's). What is known of them is computed by products and sums in a fixed order, square roots and
// divisions: the same bits on every machine, so that ranks that saw the same gradients have the same bases.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/dtype.h"

namespace tsq {

/// One side: the average of a symmetric matrix and an orthonormal basis that follows its eigenvectors.
class EigenBasis {
 public:
  EigenBasis() = default;
  explicit EigenBasis(size_t n) : n_(n) {}

  size_t size() const { return n_; }
  /// False until the first refresh(): coordinates are the original ones.
  bool turned() const { return !basis_.empty(); }
  /// Row-major [n, n]; column k is the k-th vector.
  std::span<const double> basis() const { return basis_; }

  /// average = decay * average + (1 - decay) * next; the first one as it is. next: row-major [n, n].
  void blend(std::span<const double> next, double decay);
  void scale(double factor);

  /// Moves the basis towards the eigenvectors, largest eigenvalue first: `iterations` steps of B = orth(average * B),
  /// orth by Gram-Schmidt, twice. O(iterations n^3). Nothing if no average is known or it is zero.
  void refresh(int iterations);

  std::vector<double> state() const;
  /// Reads what state() wrote from the front of `state` and returns the rest. Throws ArgumentError.
  std::span<const double> load(std::span<const double> state);

 private:
  size_t n_ = 0;
  std::vector<double> average_, basis_;
};

/// A matrix parameter, row-major [rows, columns]; sides longer than `largest_side` are left as they are.
class KroneckerBasis {
 public:
  KroneckerBasis(size_t rows, size_t columns, size_t largest_side);

  size_t numel() const { return rows_ * columns_; }
  bool has_rows() const { return left_.size() > 0; }
  bool has_columns() const { return right_.size() > 0; }
  bool turned() const { return left_.turned() || right_.turned(); }

  /// A gradient in original coordinates (numel elements of float32 or float64). Not finite: nothing changes, false.
  /// O(rows * columns * (rows + columns)).
  bool observe(ConstView gradient, double decay);
  void refresh(int iterations);
  void scale(double factor);

  /// x = U^T x V and its inverse, in place; x float32 or float64, arithmetic in its type: sums over ascending indices,
  /// multiply then add. Orthogonal: norms stay, to rounding. O(rows * columns * (rows + columns)).
  void enter(View x) const;
  void leave(View x) const;

  std::vector<double> state() const;
  void load(std::span<const double> state);

 private:
  size_t rows_, columns_;
  EigenBasis left_, right_;  // of size 0: that side stays
};

}  // namespace tsq
