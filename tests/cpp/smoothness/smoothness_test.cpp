// The eigen-solver, roots, closed forms from rows, and budgets: what Python's tests do not see.
#include "smoothness/smoothness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "common/error.h"
#include "compressors/budget.h"
#include "smoothness/data.h"
#include "smoothness/eigen.h"

namespace tsq {
namespace {

constexpr uint64_t kRootHash = 0x02146EE8E8326236;

std::vector<double> random_symmetric(size_t d, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> a(d * d);
  for (size_t i = 0; i < d; ++i)
    for (size_t j = 0; j <= i; ++j) a[i * d + j] = a[j * d + i] = normal(random);
  return a;
}

TEST(Eigen, VectorsAreOrthonormalAndDecompose) {
  for (const size_t d : {size_t{1}, size_t{2}, size_t{3}, size_t{17}, size_t{64}}) {
    const std::vector<double> a = random_symmetric(d, static_cast<uint32_t>(d));
    const Eigen e = eigen_symmetric(a, d);
    for (size_t k = 0; k < d; ++k) {
      for (size_t l = 0; l <= k; ++l) {
        double dot = 0;
        for (size_t i = 0; i < d; ++i) dot += e.vectors[k * d + i] * e.vectors[l * d + i];
        EXPECT_NEAR(dot, k == l, 1e-13 * double(d));
      }
      for (size_t i = 0; i < d; ++i) {
        double image = 0;
        for (size_t j = 0; j < d; ++j) image += a[i * d + j] * e.vectors[k * d + j];
        EXPECT_NEAR(image, e.values[k] * e.vectors[k * d + i], 1e-13 * double(d));
      }
    }
  }
}

TEST(Eigen, SpecialMatrices) {
  EXPECT_TRUE(eigen_symmetric({}, 0).values.empty());
  EXPECT_EQ(eigen_symmetric({0, 0, 0, 0}, 2).values, (std::vector<double>{0, 0}));
  const Eigen diagonal = eigen_symmetric({3, 0, 0, 0, 3, 0, 0, 0, -1}, 3);
  EXPECT_EQ(diagonal.values, (std::vector<double>{3, 3, -1}));
  const Eigen huge = eigen_symmetric({0, 1e300, 1e300, 0}, 2);
  EXPECT_NEAR(std::abs(huge.values[0]) / 1e300, 1, 1e-15);
  EXPECT_EQ(huge.values[0], -huge.values[1]);
}

/// A fixed matrix and its root's first entries to the bit: ranks on different machines must agree.
TEST(Smoothness, RootsAreTheSameBitsEverywhere) {
  const size_t d = 9;
  std::vector<double> l(d * d, 0);
  for (size_t i = 0; i < d; ++i)
    for (size_t j = 0; j < d; ++j) l[i * d + j] = 1.0 / static_cast<double>(1 + i + j);  // Hilbert's
  const BlockDiagonal L(BlockDiagonal::Kind::kMatrix, {{d, l}}, 0x1p-52);
  std::vector<double> x(d), root(d), back(d);
  for (size_t i = 0; i < d; ++i) x[i] = static_cast<double>(i) - 4;
  L.root(x.data(), root.data(), d);
  uint64_t hash = 0xCBF29CE484222325u;
  for (const double v : root) {
    const auto bits = std::bit_cast<uint64_t>(v);
    for (int shift = 0; shift < 64; shift += 8) hash = (hash ^ (bits >> shift & 255)) * 0x100000001B3u;
  }
  EXPECT_EQ(hash, kRootHash) << std::hex << hash;
}

TEST(Smoothness, ChecksWhatItIsGiven) {
  EXPECT_THROW(Scalar(-1.0), ArgumentError);
  EXPECT_THROW(Diagonal({1.0, NAN}), ArgumentError);
  EXPECT_THROW(BlockDiagonal(BlockDiagonal::Kind::kMatrix, {{2, {1, 2, 2, 1}}}, 0x1p-52), ArgumentError);
  EXPECT_THROW(BlockDiagonal(BlockDiagonal::Kind::kMatrix, {{2, {1, 0, 1}}}, 0x1p-52), ArgumentError);
  EXPECT_THROW(Diagonal({1.0}).check_numel(2), ArgumentError);
  EXPECT_NO_THROW(Scalar(1.0).check_numel(1000));
}

TEST(Rows, RejectsWhatIsNotAMatrix) {
  const std::vector<int64_t> starts{0, 2, 3}, bad_starts{0, 3, 2}, places{0, 2, 1}, twice{1, 1, 0}, wide{0, 3, 1};
  const std::vector<double> values{1, 2, 3};
  EXPECT_NO_THROW(check_rows({3, starts, places, values}, {1, 0}));
  EXPECT_THROW(check_rows({3, bad_starts, places, values}, {1, 0}), ArgumentError);
  EXPECT_THROW(check_rows({3, starts, twice, values}, {1, 0}), ArgumentError);
  EXPECT_THROW(check_rows({3, starts, wide, values}, {1, 0}), ArgumentError);
  EXPECT_THROW(check_rows({3, starts, places, values}, {0, 0}), ArgumentError);
  EXPECT_THROW(check_rows({3, starts, places, values}, {1, -1}), ArgumentError);
  const std::vector<double> l = hessian_bound({3, starts, places, values}, {1, 0.5});
  EXPECT_EQ(l, (std::vector<double>{1, 0, 1, 0, 5, 0, 1, 0, 2.5}));
}

TEST(Budget, BlocksCoverEverythingAndDifferByOneElement) {
  for (const size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{100}, size_t{65537}})
    for (const size_t blocks : {size_t{1}, size_t{3}, size_t{64}}) {
      const std::vector<size_t> bounds = block_bounds(n, blocks);
      ASSERT_EQ(bounds.size(), std::min(n, blocks) + 1);
      EXPECT_EQ(bounds.front(), 0u);
      EXPECT_EQ(bounds.back(), n);
      for (size_t l = 0; l + 1 < bounds.size(); ++l) {
        EXPECT_EQ(bounds[l], l * n / std::min(n, blocks));
        EXPECT_LE(bounds[l + 1] - bounds[l], n / std::min(n, blocks) + 1);
      }
    }
}

TEST(Budget, BitsGrantWhatTheirBoundAllows) {
  for (const double bits : {0.1, 1.0, 4.0, 12.0}) {
    const Budget budget{.entries = {}, .ratio = {}, .bits = bits};
    const double granted = granted_entries(budget, 10000, 0, 4);
    EXPECT_NEAR(elias_budget_bits(10000, granted, 4), bits * 10000, 1e-6 * bits * 10000);
  }
}

}  // namespace
}  // namespace tsq
