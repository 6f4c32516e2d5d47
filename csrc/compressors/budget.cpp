#include "compressors/budget.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "common/error.h"
#include "common/expression.h"
#include "wire/elias.h"
#include "wire/levels.h"

namespace tsq {

namespace {

constexpr double kMostLevels = 32767;  // no finer steps: levels have 16 bits
constexpr double kInfinite = std::numeric_limits<double>::infinity();

/// G(k): linear between the powers of two that are vertices of the concave majorant of elias_length.
double concave_length(double k) {
  struct Point {
    double at, length;
  };
  static const std::vector<Point> hull = [] {
    std::vector<Point> points;
    for (uint32_t k = 1; k != 0; k *= 2) {
      const Point next{double(k), double(wire::elias_length(k))};
      const auto slope = [](const Point& a, const Point& b) { return (b.length - a.length) / (b.at - a.at); };
      while (points.size() > 1 && slope(points[points.size() - 2], points.back()) <= slope(points.back(), next))
        points.pop_back();
      points.push_back(next);
    }
    return points;
  }();
  size_t i = 1;
  while (i + 1 < hull.size() && hull[i].at < k) ++i;
  const Point &a = hull[i - 1], &b = hull[i];
  return a.length + (b.length - a.length) * (std::max(k, 1.0) - a.at) / (b.at - a.at);
}

double sum_of(std::span<const double> v) { return std::accumulate(v.begin(), v.end(), 0.0); }

/// The largest x in [0, top] with f(x) <= limit, f not falling; 0 if there is none.
template <class F>
double largest_within(double top, double limit, F f) {
  double low = 0, high = top;
  if (f(top) <= limit) return top;
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (f(middle) <= limit ? low : high) = middle;
  }
  return low;
}

}  // namespace

std::string Budget::text() const {
  if (entries) return "budget=" + number_text(*entries);
  if (ratio) return "ratio=" + number_text(*ratio);
  return "bits=" + number_text(*bits);
}

void Budget::check(const char* name) const {
  if (entries.has_value() + ratio.has_value() + bits.has_value() != 1)
    throw ArgumentError(concat(name, ": expected exactly one of budget, ratio and bits"));
  if (entries && !(*entries > 0 && std::isfinite(*entries)))
    throw ArgumentError(concat(name, ": budget: expected a positive number of non-zeros, got ", *entries));
  if (ratio && !(*ratio > 0 && *ratio <= 1))
    throw ArgumentError(concat(name, ": ratio: expected a number above 0, at most 1, got ", *ratio));
  if (bits && !(*bits > 0 && *bits <= kMaxBudgetBits))
    throw ArgumentError(concat(name, ": bits: expected a number above 0, at most ", kMaxBudgetBits, ", got ", *bits));
}

double elias_budget_bits(double n, double entries, double scale_bytes) {
  const double filled = std::min(entries, n);
  const double levels = filled > 0 ? filled * (concave_length(n / filled) + 1 + concave_length(entries / filled)) : 0;
  const double segments = std::ceil(n / static_cast<double>(wire::kLevelSegment));
  return levels + 8 * (scale_bytes + 1) + 39 * segments;  // heads, and a last byte that is not full
}

double granted_entries(const Budget& budget, size_t n, size_t counted, double scale_bytes) {
  const auto d = static_cast<double>(n);
  if (budget.ratio) return *budget.ratio * d;
  if (budget.entries) return std::clamp(*budget.entries - static_cast<double>(counted), 0.0, d);
  return largest_within(kMostLevels * d, *budget.bits * d,
                        [&](double entries) { return elias_budget_bits(d, entries, scale_bytes); });
}

void check_budget(const char* name, const Budget& budget, size_t n, size_t counted, double scale_bytes) {
  const double most = static_cast<double>(n + counted);
  if (budget.entries && *budget.entries > most)
    throw ArgumentError(
        concat(name, ": budget: expected at most ", most, " for ", n, " elements, got ", *budget.entries));
  if (granted_entries(budget, n, counted, scale_bytes) > 0) return;
  if (budget.entries)
    throw ArgumentError(
        concat(name, ": budget: expected more than 1 for each of ", counted, " norms, got ", *budget.entries));
  throw ArgumentError(concat(name, ": bits: expected more than ",
                             elias_budget_bits(static_cast<double>(n), 0, scale_bytes) / static_cast<double>(n),
                             " for ", n, " elements, got ", budget.bits.value_or(0)));
}

std::vector<double> weights_of(std::span<const double> diagonal, double n_mu, bool euclidean) {
  std::vector<double> out(diagonal.begin(), diagonal.end());
  if (n_mu > 0)
    for (double& a : out) a = euclidean ? std::sqrt(1 + (a / n_mu) * (a / n_mu)) : 1 + a / n_mu;
  return out;
}

std::vector<double> varying_steps(std::span<const double> weights, double beta) {
  const double total = sum_of(weights);
  std::vector<double> out;
  for (const double a : weights) out.push_back(a > 0 ? std::sqrt(total / a) / beta : kInfinite);
  return out;
}

std::vector<size_t> block_bounds(size_t n, size_t blocks) {
  std::vector<size_t> out;
  const size_t count = std::min(blocks, n), whole = count ? n / count : 0, rest = count ? n % count : 0;
  for (size_t l = 0; l <= count; ++l) out.push_back(l * whole + (count ? l * rest / count : 0));
  return out;
}

namespace {

double root_size(std::span<const size_t> bounds, size_t l) {
  return std::sqrt(static_cast<double>(bounds[l + 1] - bounds[l]));
}

/// h_l = delta / costs_l.
std::vector<double> equalised(std::span<const size_t> bounds, const std::vector<double>& costs, double left,
                              bool paper) {
  double linear = 0, squares = 0;
  for (size_t l = 0; l < costs.size(); ++l) {
    linear += root_size(bounds, l) * costs[l];
    squares += costs[l] * costs[l];
  }
  double delta = linear / left;
  if (paper) delta = 0.5 * delta + std::sqrt(0.25 * delta * delta + squares / left);
  std::vector<double> out;
  for (const double a : costs) out.push_back(a > 0 ? delta / a : kInfinite);
  return out;
}

std::vector<double> uniform_steps(std::span<const size_t> bounds, double left) {
  const size_t blocks = bounds.size() - 1;
  const double each = left / static_cast<double>(blocks);
  double largest = 0;  // where blocks differ in size, that of the longest
  for (size_t l = 0; l < blocks; ++l) {
    const double root = root_size(bounds, l);
    largest = std::max(largest, (root + std::sqrt(root * root + 4 * each)) / (2 * each));
  }
  return std::vector<double>(blocks, largest);
}

}  // namespace

std::vector<double> block_steps(std::span<const double> diagonal, std::span<const size_t> bounds, double beta,
                                double n_mu, BlockRule rule) {
  const size_t blocks = bounds.size() - 1;
  const double left = beta - static_cast<double>(blocks);
  if (rule == BlockRule::kUniform) return uniform_steps(bounds, left);
  std::vector<double> costs;
  for (size_t l = 0; l < blocks; ++l) {
    double norm = 0;
    for (size_t j = bounds[l]; j < bounds[l + 1]; ++j) norm += diagonal[j] * diagonal[j];
    norm = std::sqrt(norm);
    costs.push_back(n_mu > 0 ? root_size(bounds, l) + norm / n_mu : norm);
  }
  return equalised(bounds, costs, left, rule == BlockRule::kPaper);
}

std::vector<double> plain_block_steps(std::span<const size_t> bounds, double beta, bool uniform) {
  const size_t blocks = bounds.size() - 1;
  const double left = beta - static_cast<double>(blocks);
  if (uniform) return uniform_steps(bounds, left);
  std::vector<double> costs;
  for (size_t l = 0; l < blocks; ++l) costs.push_back(root_size(bounds, l));
  return equalised(bounds, costs, left, false);
}

std::vector<double> bernoulli_probabilities(std::span<const double> diagonal, double tau, double n_mu) {
  const std::vector<double> weights = weights_of(diagonal, n_mu, /*euclidean=*/false);
  const double total = sum_of(weights);
  const auto positive =
      static_cast<double>(std::count_if(weights.begin(), weights.end(), [](double a) { return a > 0; }));
  std::vector<double> out;
  if (positive <= tau) {
    for (const double a : weights) out.push_back(a > 0 ? 1 : 0);
    return out;
  }
  const auto sum = [&](double rho) {
    double s = 0;
    for (const double a : weights) s += a > 0 ? a / (a + rho) : 0;
    return s;
  };
  double low = 0, high = total / tau;  // sum(high) < tau
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle == low || middle == high) break;
    (sum(middle) > tau ? low : high) = middle;
  }
  for (const double a : weights) out.push_back(a > 0 ? a / (a + high) : 0);
  return out;
}

}  // namespace tsq
