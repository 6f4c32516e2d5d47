// Eigenbases that follow: orthonormal, decorrelating, invertible, resumable.
#include "smoothness/kronecker.h"

#include <gtest/gtest.h>

#include <cmath>

#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

/// Entries with covariances that are not diagonal: A X B of random factors with falling singular values.
Vector correlated(DType dtype, size_t rows, size_t columns, uint64_t seed) {
  Vector g(dtype, rows * columns);
  std::mt19937_64 random(seed), fixed(99);
  std::normal_distribution<double> normal;
  std::vector<double> left(rows * 3), right(3 * columns);
  for (double& v : left) v = normal(fixed);
  for (double& v : right) v = normal(fixed);
  for (size_t k = 0; k < 3; ++k) {
    const double weight = normal(random) * std::pow(0.2, k);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < columns; ++j)
        g.set(i * columns + j, g[i * columns + j] + weight * left[i * 3 + k] * right[k * columns + j]);
  }
  for (size_t i = 0; i < g.size(); ++i) g.set(i, g[i] + 1e-3 * normal(random));
  return g;
}

double norm(const Vector& x) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * x[i];
  return std::sqrt(sum);
}

TEST(EigenBasis, IsOrthonormalAndDiagonalises) {
  const size_t n = 12;
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  std::vector<double> factor(n * n), matrix(n * n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) factor[i * n + j] = normal(random) * std::pow(0.5, j);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j)
      for (size_t k = 0; k < n; ++k) matrix[i * n + j] += factor[i * n + k] * factor[j * n + k];
  EigenBasis basis(n);
  basis.refresh(5);
  EXPECT_FALSE(basis.turned());  // nothing is known
  basis.blend(matrix, 0.9);
  basis.refresh(200);
  ASSERT_TRUE(basis.turned());
  const auto u = basis.basis();
  double off = 0, all = 0;
  for (size_t a = 0; a < n; ++a)
    for (size_t b = 0; b < n; ++b) {
      double dot = 0, form = 0;
      for (size_t i = 0; i < n; ++i) {
        dot += u[i * n + a] * u[i * n + b];
        for (size_t j = 0; j < n; ++j) form += u[i * n + a] * matrix[i * n + j] * u[j * n + b];
      }
      EXPECT_NEAR(dot, a == b, 1e-12);
      (a == b ? all : off) += form * form;
    }
  EXPECT_LT(off, 1e-8 * all);
}

TEST(Kronecker, TurnsAndBackIsTheSameAndKeepsLengths) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64})
    for (const size_t largest : {64u, 8u, 5u}) {  // both sides; columns stay; rows and columns stay
      KroneckerBasis basis(20, 6, largest);
      EXPECT_EQ(basis.has_rows(), largest >= 20);
      EXPECT_EQ(basis.has_columns(), largest >= 6);
      for (uint64_t step = 0; step < 5; ++step) EXPECT_TRUE(basis.observe(correlated(dtype, 20, 6, step).view(), 0.9));
      basis.refresh(10);
      const Vector before = correlated(dtype, 20, 6, 77), x = before;
      basis.enter(x.view());
      EXPECT_EQ(x == before, largest == 5);
      EXPECT_NEAR(norm(x), norm(before), 16 * test::epsilon(dtype) * norm(before));
      basis.leave(x.view());
      EXPECT_LE(test::max_difference(x.view(), before.view()),
                64 * test::epsilon(dtype) * test::max_abs(before.view()));
    }
}

TEST(Kronecker, EnergyGathersInFewCoordinates) {
  KroneckerBasis basis(24, 16, 64);
  for (uint64_t step = 0; step < 20; ++step) basis.observe(correlated(DType::kFloat32, 24, 16, step).view(), 0.9);
  basis.refresh(10);
  const auto share_of_largest = [](const Vector& x) {
    std::vector<double> squares;
    double all = 0;
    for (size_t i = 0; i < x.size(); ++i) squares.push_back(x[i] * x[i]), all += squares.back();
    std::sort(squares.rbegin(), squares.rend());
    double first = 0;
    for (size_t i = 0; i < 12; ++i) first += squares[i];
    return first / all;
  };
  const Vector x = correlated(DType::kFloat32, 24, 16, 500);
  EXPECT_LT(share_of_largest(x), 0.5);
  basis.enter(x.view());
  EXPECT_GT(share_of_largest(x), 0.99);
}

TEST(Kronecker, ZerosNonsenseAndSingularAveragesAreNoTrouble) {
  KroneckerBasis basis(8, 4, 64);
  Vector g(DType::kFloat32, 32);
  EXPECT_TRUE(basis.observe(g.view(), 0.5));
  basis.refresh(3);
  EXPECT_FALSE(basis.turned());
  g.set(5, NAN);
  EXPECT_FALSE(basis.observe(g.view(), 0.5));
  g.set(5, INFINITY);
  EXPECT_FALSE(basis.observe(g.view(), 0.5));
  g.set(5, 1e-30);  // one entry: rank one
  EXPECT_TRUE(basis.observe(g.view(), 0.5));
  basis.refresh(10);
  EXPECT_TRUE(basis.turned());
  const Vector x = test::random_vector(DType::kFloat32, 32, 1), before = x;
  basis.enter(x.view());
  EXPECT_NEAR(norm(x), norm(before), 1e-5 * norm(before));
  for (const double v : basis.state()) EXPECT_TRUE(std::isfinite(v));
}

TEST(Kronecker, StateGoesOnBitForBitAndBadOnesAreRefused) {
  KroneckerBasis a(10, 6, 64), b(10, 6, 64);
  for (uint64_t step = 0; step < 4; ++step) a.observe(correlated(DType::kFloat32, 10, 6, step).view(), 0.9);
  a.refresh(10);
  b.load(a.state());
  for (KroneckerBasis* basis : {&a, &b}) {
    basis->scale(2.0);
    basis->observe(correlated(DType::kFloat32, 10, 6, 9).view(), 0.9);
    basis->refresh(2);
  }
  EXPECT_EQ(a.state(), b.state());
  const std::vector<double> good = a.state();
  const auto error = [&](auto change) {
    std::vector<double> bad = good;
    change(bad);
    return test::error_of<ArgumentError>([&] { b.load(bad); });
  };
  EXPECT_NE(error([](auto& s) { s.pop_back(); }), "");
  EXPECT_NE(error([](auto& s) { s.push_back(0); }), "");
  EXPECT_NE(error([](auto& s) { s[0] = 99; }), "");
  EXPECT_NE(error([](auto& s) { s[1] = NAN; }), "");
  EXPECT_NE(error([](auto& s) { s[7] = INFINITY; }), "");
  EXPECT_NE(error([](auto& s) { s.clear(); }), "");
  EXPECT_EQ(b.state(), good);
}

}  // namespace
}  // namespace tsq
