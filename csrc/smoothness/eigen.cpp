#include "smoothness/eigen.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/error.h"

namespace tsq {

namespace {

/// x^T y and y += f x over n elements, in order.
double dot(const double* x, const double* y, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}
void axpy(double f, const double* x, double* y, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] += f * x[i];
}

/// One reflection I - beta v v^T that acts on the coordinates behind k.
struct Reflection {
  std::vector<double> v;
  double beta = 0;
};

/// Brings `a` to tridiagonal form T = Q^T A Q: `diagonal` (d) and `below` (d; the last is 0). Returns the reflections
/// of Q = H_0 H_1 ....
std::vector<Reflection> tridiagonalise(std::vector<double>& a, size_t d, std::vector<double>& diagonal,
                                       std::vector<double>& below) {
  std::vector<Reflection> reflections;
  std::vector<double> p;
  for (size_t k = 0; k + 2 < d; ++k) {
    const size_t m = d - k - 1;  // length of what is reflected
    std::vector<double> v(m);
    for (size_t i = 0; i < m; ++i) v[i] = a[(k + 1 + i) * d + k];
    const double norm = std::sqrt(dot(v.data(), v.data(), m));
    const double tail = dot(v.data() + 1, v.data() + 1, m - 1);
    double beta = 0, alpha = v[0];
    if (tail > 0) {
      alpha = v[0] > 0 ? -norm : norm;
      v[0] -= alpha;
      beta = 2 / dot(v.data(), v.data(), m);
      p.assign(m, 0);
      for (size_t i = 0; i < m; ++i) p[i] = beta * dot(&a[(k + 1 + i) * d + k + 1], v.data(), m);
      axpy(-0.5 * beta * dot(v.data(), p.data(), m), v.data(), p.data(), m);
      for (size_t i = 0; i < m; ++i) {
        double* const row = &a[(k + 1 + i) * d + k + 1];
        for (size_t j = 0; j < m; ++j) row[j] -= v[i] * p[j] + p[i] * v[j];
      }
    }
    below[k] = alpha;
    reflections.push_back({std::move(v), beta});
  }
  for (size_t i = 0; i < d; ++i) diagonal[i] = a[i * d + i];
  if (d >= 2) below[d - 2] = a[(d - 1) * d + d - 2];
  return reflections;
}

/// Q^T of the reflections, d x d.
std::vector<double> transposed_product(const std::vector<Reflection>& reflections, size_t d) {
  std::vector<double> q(d * d, 0), sums(d);
  for (size_t i = 0; i < d; ++i) q[i * d + i] = 1;
  for (size_t k = reflections.size(); k-- > 0;) {
    const auto& [v, beta] = reflections[k];
    if (beta == 0) continue;
    sums.assign(d, 0);
    for (size_t i = 0; i < v.size(); ++i) axpy(v[i], &q[(k + 1 + i) * d], sums.data(), d);
    for (size_t i = 0; i < v.size(); ++i) axpy(-beta * v[i], sums.data(), &q[(k + 1 + i) * d], d);
  }
  for (size_t i = 0; i < d; ++i)
    for (size_t j = 0; j < i; ++j) std::swap(q[i * d + j], q[j * d + i]);
  return q;
}

/// One implicit QL step on rows l to m of T; the rotations act on the rows of `z`.
void ql_step(std::vector<double>& t, std::vector<double>& e, std::vector<double>& z, size_t d, size_t l, size_t m) {
  double g = (t[l + 1] - t[l]) / (2 * e[l]);
  double r = std::sqrt(g * g + 1);
  g = t[m] - t[l] + e[l] / (g + (g >= 0 ? r : -r));
  double s = 1, c = 1, p = 0;
  for (size_t i = m; i-- > l;) {
    const double f = s * e[i], b = c * e[i];
    r = std::sqrt(f * f + g * g);
    e[i + 1] = r;
    if (r == 0) {  // T splits here
      t[i + 1] -= p;
      e[m] = 0;
      return;
    }
    s = f / r, c = g / r;
    g = t[i + 1] - p;
    r = (t[i] - g) * s + 2 * c * b;
    p = s * r;
    t[i + 1] = g + p;
    g = c * r - b;
    double* const one = &z[i * d];
    double* const two = &z[(i + 1) * d];
    for (size_t k = 0; k < d; ++k) {
      const double old = two[k];
      two[k] = s * one[k] + c * old;
      one[k] = c * one[k] - s * old;
    }
  }
  t[l] -= p;
  e[l] = g;
  e[m] = 0;
}

}  // namespace

Eigen eigen_symmetric(std::vector<double> a, size_t d) {
  if (d == 0) return {};
  double largest = 0;
  for (const double v : a) largest = std::max(largest, std::abs(v));
  if (largest == 0) {
    Eigen out{std::vector<double>(d, 0), std::vector<double>(d * d, 0)};
    for (size_t i = 0; i < d; ++i) out.vectors[i * d + i] = 1;
    return out;
  }
  const int exponent = std::ilogb(largest);  // squares must not leave the range of double
  for (double& v : a) v = std::ldexp(v, -exponent);
  std::vector<double> t(d), e(d, 0);
  const auto reflections = tridiagonalise(a, d, t, e);
  std::vector<double> z = transposed_product(reflections, d);
  constexpr double kEps = std::numeric_limits<double>::epsilon();
  for (size_t l = 0; l < d; ++l) {
    for (int steps = 0;; ++steps) {
      size_t m = l;
      while (m + 1 < d && std::abs(e[m]) > kEps * (std::abs(t[m]) + std::abs(t[m + 1]))) ++m;
      if (m == l) break;
      if (steps == 200) throw ArgumentError(concat("smoothness: no eigenvalues found of a matrix of ", d, " rows"));
      ql_step(t, e, z, d, l, m);
    }
  }
  for (double& v : t) v = std::ldexp(v, exponent);
  return {std::move(t), std::move(z)};
}

}  // namespace tsq
