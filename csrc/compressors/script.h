// script-L of compressors: the smallest known number with E|C(x) - x|_L^2 <= script-L |x|^2. For independent unbiased
// coordinates only the diagonal of L counts. Derivations: docs/smoothness.md.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "compressors/compressor.h"
#include "smoothness/smoothness.h"

namespace tsq {

/// omega of dithering d elements relative to their 2-norm with step h, u = h sqrt(d): the supremum for u >= 2.
inline double dithering_omega(double u) { return u >= 2 ? u - 1 : 0.25 * u * u; }

/// The same elements in the metric L: sums of a block's L_jj, of their squares, and the largest.
struct MetricBlock {
  double count = 0, trace = 0, squares = 0, largest = 0;
};
inline MetricBlock block_of(std::span<const double> diagonal, size_t begin, size_t end) {
  MetricBlock out;
  for (size_t j = begin; j < end; ++j) {
    const double l = diagonal[j];
    out.count += 1, out.trace += l, out.squares += l * l, out.largest = std::max(out.largest, l);
  }
  return out;
}

/// script-L of dithering a block relative to its 2-norm, or one that is not larger, with step h: Var_j is at most
/// h |x|_2 |x_j| and h^2 |x|_2^2 / 4, and together omega |x|^2.
inline double dithering_script(const MetricBlock& block, double h) {
  return std::min({h * std::sqrt(block.squares), 0.25 * h * h * block.trace,
                   dithering_omega(h * std::sqrt(block.count)) * block.largest});
}

/// The largest f(block) of n elements in blocks of `length`, 0: one block.
template <class F>
double largest_of_blocks(const Smoothness& L, size_t n, size_t length, F f) {
  const std::vector<double> diagonal = L.diagonal(n);
  double out = 0;
  for (size_t begin = 0; begin < n; begin += length ? length : n)
    out = std::max(out, f(block_of(diagonal, begin, length ? std::min(n, begin + length) : n)));
  return out;
}

}  // namespace tsq
