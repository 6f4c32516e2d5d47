#include "smoothness/kronecker.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/finite.h"

namespace tsq {

namespace {

/// c = a b, all row-major, [m, k] and [k, n]; every element the sum of products in ascending order from 0.
template <class T>
void multiply(const T* a, const T* b, T* c, size_t m, size_t k, size_t n) {
  std::fill_n(c, m * n, T{0});
  for (size_t i = 0; i < m; ++i)
    for (size_t l = 0; l < k; ++l) {
      const T factor = a[i * k + l];
      for (size_t j = 0; j < n; ++j) c[i * n + j] += factor * b[l * n + j];
    }
}

/// The basis as T, transposed if asked for.
template <class T>
std::vector<T> cast(std::span<const double> basis, size_t n, bool transposed) {
  std::vector<T> out(n * n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) out[transposed ? j * n + i : i * n + j] = static_cast<T>(basis[i * n + j]);
  return out;
}

/// Calls f with x's elements as T*.
template <class F>
void with_floats(View x, F f) {
  if (x.dtype == DType::kFloat64)
    f(x.as<double>());
  else
    f(x.as<float>());
}

/// Row k of a row-major [n, n] matrix made orthogonal to those before it and of length 1; false if nothing is left.
bool orthonormalize(std::vector<double>& m, size_t n, size_t k) {
  double* const row = m.data() + k * n;
  for (int pass = 0; pass < 2; ++pass)
    for (size_t l = 0; l < k; ++l) {
      const double* const other = m.data() + l * n;
      double dot = 0;
      for (size_t i = 0; i < n; ++i) dot += other[i] * row[i];
      for (size_t i = 0; i < n; ++i) row[i] -= dot * other[i];
    }
  double square = 0;
  for (size_t i = 0; i < n; ++i) square += row[i] * row[i];
  if (!(square > 0) || !std::isfinite(square)) return false;
  const double length = std::sqrt(square);
  for (size_t i = 0; i < n; ++i) row[i] /= length;
  return true;
}

}  // namespace

void EigenBasis::blend(std::span<const double> next, double decay) {
  if (average_.empty()) {
    average_.assign(next.begin(), next.end());
    return;
  }
  for (size_t i = 0; i < average_.size(); ++i) {
    const double kept = decay * average_[i], added = (1.0 - decay) * next[i];
    average_[i] = kept + added;
  }
}

void EigenBasis::scale(double factor) {
  for (double& v : average_) v *= factor;
}

void EigenBasis::refresh(int iterations) {
  double trace = 0;
  for (size_t i = 0; i < n_ && !average_.empty(); ++i) trace += average_[i * n_ + i];
  if (!(trace > 0) || !std::isfinite(trace)) return;
  // Divided by its trace, so that the size of gradients does not matter; with a small multiple of the unit matrix, so
  // that directions without gradients stay directions.
  std::vector<double> matrix = average_, basis = basis_, next(n_ * n_);
  for (double& v : matrix) v /= trace;
  for (size_t i = 0; i < n_; ++i) matrix[i * n_ + i] += 1e-7;
  if (basis.empty()) {
    basis.assign(n_ * n_, 0.0);
    for (size_t i = 0; i < n_; ++i) basis[i * n_ + i] = 1.0;
  }
  for (int iteration = 0; iteration < iterations; ++iteration) {
    multiply(matrix.data(), basis.data(), next.data(), n_, n_, n_);
    next = cast<double>(next, n_, true);  // vectors as rows: in one piece of memory each
    for (size_t k = 0; k < n_; ++k)
      if (!orthonormalize(next, n_, k)) return;  // keeps the basis there was
    basis = cast<double>(next, n_, true);
  }
  basis_ = std::move(basis);
}

std::vector<double> EigenBasis::state() const {
  std::vector<double> out = {static_cast<double>(average_.size()), static_cast<double>(basis_.size())};
  out.insert(out.end(), average_.begin(), average_.end());
  out.insert(out.end(), basis_.begin(), basis_.end());
  return out;
}

std::span<const double> EigenBasis::load(std::span<const double> state) {
  const double all = static_cast<double>(n_ * n_);
  if (state.size() < 2 || (state[0] != 0 && state[0] != all) || (state[1] != 0 && state[1] != all) ||
      static_cast<double>(state.size() - 2) < state[0] + state[1])
    throw ArgumentError(concat("state_dict: running: expected matrices of ", n_, " rows or none"));
  const auto average = static_cast<size_t>(state[0]), basis = static_cast<size_t>(state[1]);
  if (!has_finite_values(state.first(2 + average + basis)))
    throw ArgumentError("state_dict: running: expected finite numbers");
  const auto from = state.begin() + 2;
  average_.assign(from, from + static_cast<std::ptrdiff_t>(average));
  basis_.assign(from + static_cast<std::ptrdiff_t>(average), from + static_cast<std::ptrdiff_t>(average + basis));
  return state.subspan(2 + average + basis);
}

KroneckerBasis::KroneckerBasis(size_t rows, size_t columns, size_t largest_side)
    : rows_(rows),
      columns_(columns),
      left_(rows > 1 && rows <= largest_side ? rows : 0),
      right_(columns > 1 && columns <= largest_side ? columns : 0) {}

bool KroneckerBasis::observe(ConstView gradient, double decay) {
  std::vector<double> g(numel()), transposed(numel());
  with_floats({const_cast<void*>(gradient.data), gradient.dtype, gradient.numel}, [&](const auto* x) {
    for (size_t i = 0; i < g.size(); ++i) g[i] = static_cast<double>(x[i]);
  });
  if (!has_finite_values(g)) return false;
  for (size_t i = 0; i < rows_; ++i)
    for (size_t j = 0; j < columns_; ++j) transposed[j * rows_ + i] = g[i * columns_ + j];
  std::vector<double> left(left_.size() * left_.size()), right(right_.size() * right_.size());
  if (has_rows()) multiply(g.data(), transposed.data(), left.data(), rows_, columns_, rows_);
  if (has_columns()) multiply(transposed.data(), g.data(), right.data(), columns_, rows_, columns_);
  if (!has_finite_values(left) || !has_finite_values(right)) return false;
  if (has_rows()) left_.blend(left, decay);
  if (has_columns()) right_.blend(right, decay);
  return true;
}

void KroneckerBasis::refresh(int iterations) {
  left_.refresh(iterations);
  right_.refresh(iterations);
}

void KroneckerBasis::scale(double factor) {
  left_.scale(factor * factor);
  right_.scale(factor * factor);
}

void KroneckerBasis::enter(View x) const {
  with_floats(x, [&](auto* values) {
    using T = std::remove_pointer_t<decltype(values)>;
    std::vector<T> other(numel());
    if (left_.turned()) {
      multiply(cast<T>(left_.basis(), rows_, true).data(), values, other.data(), rows_, rows_, columns_);
      std::copy(other.begin(), other.end(), values);
    }
    if (right_.turned()) {
      multiply(values, cast<T>(right_.basis(), columns_, false).data(), other.data(), rows_, columns_, columns_);
      std::copy(other.begin(), other.end(), values);
    }
  });
}

void KroneckerBasis::leave(View x) const {
  with_floats(x, [&](auto* values) {
    using T = std::remove_pointer_t<decltype(values)>;
    std::vector<T> other(numel());
    if (right_.turned()) {
      multiply(values, cast<T>(right_.basis(), columns_, true).data(), other.data(), rows_, columns_, columns_);
      std::copy(other.begin(), other.end(), values);
    }
    if (left_.turned()) {
      multiply(cast<T>(left_.basis(), rows_, false).data(), values, other.data(), rows_, rows_, columns_);
      std::copy(other.begin(), other.end(), values);
    }
  });
}

std::vector<double> KroneckerBasis::state() const {
  std::vector<double> out = left_.state();
  const std::vector<double> right = right_.state();
  out.insert(out.end(), right.begin(), right.end());
  return out;
}

void KroneckerBasis::load(std::span<const double> state) {
  EigenBasis left = left_, right = right_;
  const auto rest = right.load(left.load(state));
  if (!rest.empty()) throw ArgumentError(concat("state_dict: running: ", rest.size(), " numbers too many"));
  left_ = std::move(left);
  right_ = std::move(right);
}

}  // namespace tsq
