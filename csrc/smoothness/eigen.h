// Eigenvalues and eigenvectors of a symmetric matrix, in double: Householder's tridiagonal form, then implicit QL with
// Wilkinson's shift (G. H. Golub, C. F. Van Loan, Matrix Computations, 8.3). Our own, and not LAPACK's, because ranks
// on different machines must find the same bits: only +, -, *, / and sqrt in a fixed order, no FMA.
#pragma once

#include <cstddef>
#include <vector>

namespace tsq {

struct Eigen {
  std::vector<double> values;   ///< d, in no order
  std::vector<double> vectors;  ///< d x d: row k is the unit eigenvector of values[k]
};

/// Of the symmetric d x d matrix `a` (all of it is given; finite). O(d^3). Throws ArgumentError if QL does not converge
/// (never seen).
Eigen eigen_symmetric(std::vector<double> a, size_t d);

}  // namespace tsq
