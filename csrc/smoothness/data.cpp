#include "smoothness/data.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"

namespace tsq {

namespace {

/// Calls f(column, value) for the entries of row l.
template <class F>
void for_row(const Rows& rows, size_t l, F f) {
  for (auto k = static_cast<size_t>(rows.starts[l]); k < static_cast<size_t>(rows.starts[l + 1]); ++k)
    f(static_cast<size_t>(rows.places[k]), rows.values[k]);
}

double factor_of(const Rows& rows, Curvature curvature) { return curvature.c / static_cast<double>(rows.count()); }

/// out_j = sum over rows of weight(row) * term(a_lj), times c/m, plus l2.
template <class Weight, class Term>
std::vector<double> weighted_columns(const Rows& rows, Curvature curvature, Weight weight, Term term) {
  std::vector<double> out(rows.columns, 0);
  for (size_t l = 0; l < rows.count(); ++l) {
    const double w = weight(l);
    for_row(rows, l, [&](size_t j, double a) { out[j] += w * term(a); });
  }
  for (double& v : out) v = factor_of(rows, curvature) * v + curvature.l2;
  return out;
}

/// out = (c/m) A^T A v, of the magnitudes of A if `absolute`.
void times_gram(const Rows& rows, double factor, bool absolute, const std::vector<double>& v,
                std::vector<double>& out) {
  std::fill(out.begin(), out.end(), 0.0);
  for (size_t l = 0; l < rows.count(); ++l) {
    double dot = 0;
    for_row(rows, l, [&](size_t j, double a) { dot += (absolute ? std::abs(a) : a) * v[j]; });
    dot *= factor;
    for_row(rows, l, [&](size_t j, double a) { out[j] += (absolute ? std::abs(a) : a) * dot; });
  }
}

double norm_of(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

}  // namespace

void check_rows(const Rows& rows, Curvature curvature) {
  if (!(curvature.c > 0) || !std::isfinite(curvature.c))
    throw ArgumentError(concat("c: expected a positive number, got ", curvature.c));
  if (!(curvature.l2 >= 0) || !std::isfinite(curvature.l2))
    throw ArgumentError(concat("l2: expected a finite number of at least 0, got ", curvature.l2));
  if (rows.count() == 0 || rows.columns == 0)
    throw ArgumentError(concat("A: expected at least one row and column, got ", rows.count(), " x ", rows.columns));
  if (rows.places.size() != rows.values.size() || rows.starts.front() != 0 ||
      rows.starts.back() != static_cast<int64_t>(rows.values.size()) ||
      !std::is_sorted(rows.starts.begin(), rows.starts.end()))
    throw ArgumentError("A: expected row starts from 0 to the number of entries, ascending, got others");
  for (size_t l = 0; l < rows.count(); ++l)
    for (auto k = static_cast<size_t>(rows.starts[l]) + 1; k < static_cast<size_t>(rows.starts[l + 1]); ++k)
      if (rows.places[k] <= rows.places[k - 1])
        throw ArgumentError(concat("A: expected the columns of row ", l, " in ascending order, each once, got ",
                                   rows.places[k - 1], " before ", rows.places[k]));
  for (size_t k = 0; k < rows.values.size(); ++k) {
    if (rows.places[k] < 0 || rows.places[k] >= static_cast<int64_t>(rows.columns))
      throw ArgumentError(concat("A: expected columns from 0 to ", rows.columns - 1, ", got ", rows.places[k]));
    if (!std::isfinite(rows.values[k])) throw ArgumentError(concat("A: expected finite entries, got ", rows.values[k]));
  }
}

std::vector<double> hessian_bound(const Rows& rows, Curvature curvature) {
  const size_t d = rows.columns;
  std::vector<double> out(d * d, 0);
  for (size_t l = 0; l < rows.count(); ++l)
    for_row(rows, l,
            [&](size_t i, double a) { for_row(rows, l, [&](size_t j, double b) { out[i * d + j] += a * b; }); });
  for (double& v : out) v *= factor_of(rows, curvature);
  for (size_t i = 0; i < d; ++i) out[i * d + i] += curvature.l2;
  return out;
}

std::vector<double> hessian_diagonal(const Rows& rows, Curvature curvature) {
  return weighted_columns(
      rows, curvature, [](size_t) { return 1.0; }, [](double a) { return a * a; });
}

Bounds bound_lambda_max(const Rows& rows, Curvature curvature, int iterations) {
  const double factor = factor_of(rows, curvature);
  std::vector<double> v(rows.columns, 1.0), next(rows.columns);
  Bounds out{0, HUGE_VAL};
  for (int k = 0; k < iterations; ++k) {
    times_gram(rows, factor, /*absolute=*/true, v, next);
    double ratio = 0;
    for (size_t j = 0; j < v.size(); ++j)
      if (next[j] > 0) ratio = std::max(ratio, next[j] / v[j]);  // a column without entries has the eigenvalue 0
    out.high = std::min(out.high, ratio);
    const double norm = norm_of(next);
    if (norm == 0) break;
    // no entry may vanish before the others: a floor keeps v positive, and the bound holds for every positive v
    for (size_t j = 0; j < v.size(); ++j) v[j] = std::max(next[j] / norm, 1e-100);
  }
  std::fill(v.begin(), v.end(), 0.0);
  for (size_t j = 0; j < v.size(); ++j) v[j] = 1.0 + static_cast<double>(j * 2654435761u % 1024) / 1024.0;
  for (int k = 0; k < iterations; ++k) {
    const double norm = norm_of(v);
    for (double& x : v) x /= norm;
    times_gram(rows, factor, /*absolute=*/false, v, next);
    double quotient = 0;
    for (size_t j = 0; j < v.size(); ++j) quotient += v[j] * next[j];
    out.low = std::max(out.low, quotient);
    if (norm_of(next) == 0) break;
    std::swap(v, next);
  }
  return {out.low + curvature.l2, out.high * (1 + 1e-12) + curvature.l2};
}

std::vector<double> majoriser(Majoriser rule, const Rows& rows, Curvature curvature) {
  const size_t d = rows.columns;
  switch (rule) {
    case Majoriser::kGershgorin: {
      const std::vector<double> matrix = hessian_bound(rows, curvature);
      std::vector<double> out(d, 0);
      for (size_t i = 0; i < d; ++i)
        for (size_t j = 0; j < d; ++j) out[i] += std::abs(matrix[i * d + j]);
      return out;
    }
    case Majoriser::kRowSums: {
      const auto sum = [&](size_t l) {
        double total = 0;
        for_row(rows, l, [&](size_t, double a) { total += std::abs(a); });
        return total;
      };
      return weighted_columns(rows, curvature, sum, [](double a) { return std::abs(a); });
    }
    case Majoriser::kRowCounts: {
      const auto count = [&](size_t l) {
        double total = 0;
        for_row(rows, l, [&](size_t, double a) { total += a != 0; });
        return total;
      };
      return weighted_columns(rows, curvature, count, [](double a) { return a * a; });
    }
    case Majoriser::kDimension: {
      std::vector<double> out = hessian_diagonal(rows, curvature);
      for (double& v : out) v *= static_cast<double>(d);
      return out;
    }
    case Majoriser::kLambdaMax:
      return std::vector<double>(d, bound_lambda_max(rows, curvature).high);
  }
  throw ArgumentError("majoriser: unknown rule");
}

}  // namespace tsq
