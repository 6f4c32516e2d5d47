// Sums in a fixed order: every SIMD target gives the oracle's bits.
#include <gtest/gtest.h>

#include "kernels/cpu/block.h"
#include "kernels/payload.h"
#include "kernels/sums.h"

namespace tsq::kernels {
namespace {

/// A gradient with huge, tiny and zero elements, at an address that is aligned to a float only.
std::vector<float> vector(size_t n, uint64_t seed) {
  const test::Buffer x = test::gradient(DType::kFloat32, n, 4, seed);
  std::vector<float> out(n);
  std::memcpy(out.data(), x.data(), 4 * n);
  return out;
}

TEST(SumsSimd, EqualTheOracles) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (const size_t n : {0, 1, 31, 32, 33, 63, 64, 100, 4096, 4097, 4129, 10'000, 12'289}) {
      const std::vector<float> v = vector(n + 1, n), w = vector(n + 1, n + 1);
      const float *x = v.data() + 1, *h = w.data() + 1;
      for (const double bar : {0.0, 1e-3, 1e-30, double(INFINITY)}) {
        const SumBelow got = sum_below(x, n, bar), expected = scalar::sum_below(x, n, bar);
        EXPECT_EQ(got.sum, expected.sum) << target << ' ' << n << ' ' << bar;
        EXPECT_EQ(got.reached, expected.reached) << target << ' ' << n << ' ' << bar;
      }
      for (const double factor : {1.0, 1e3, 1e300}) {
        const Moments got = moments(x, n, factor), expected = scalar::moments(x, n, factor);
        EXPECT_EQ(got.squares, expected.squares) << target << ' ' << n << ' ' << factor;
        EXPECT_EQ(got.at_least, expected.at_least) << target << ' ' << n << ' ' << factor;
      }
      float lanes[33], expected[33];
      for (size_t l = 0; l < 33; ++l) lanes[l] = expected[l] = static_cast<float>(l);
      add_square_distances(x, h, n / 32 * 32, lanes + 1);
      scalar::add_square_distances(x, h, n / 32 * 32, expected + 1);
      for (size_t l = 0; l < 33; ++l) EXPECT_EQ(lanes[l], expected[l]) << target << ' ' << n << ' ' << l;
    }
  }
}

TEST(SumsSimd, TwoDistancesAtOnceAreTheOraclesAndThoseOfEach) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (const size_t n : {0, 32, 64, 96, 1024, 4096, 4128}) {
      for (const float special : {0.0f, 0x1p96f, -INFINITY, NAN}) {
        std::vector<float> v = vector(n + 1, n), w = vector(n + 1, n + 1), u = vector(n + 1, n + 2);
        if (special != 0 && n > 0) v[n - n / 5] = special;
        const float *x = v.data() + 1, *h = w.data() + 1, *y = u.data() + 1;
        float got[2][32] = {{1.0f}, {2.0f}}, oracle[2][32] = {{1.0f}, {2.0f}}, single[2][32] = {{1.0f}, {2.0f}};
        const uint32_t largest = add_square_distances(x, h, y, n, got[0], got[1]);
        EXPECT_EQ(largest, scalar::add_square_distances(x, h, y, n, oracle[0], oracle[1])) << target << ' ' << n;
        add_square_distances(x, h, n, single[0]);
        add_square_distances(x, y, n, single[1]);
        EXPECT_EQ(std::memcmp(got, oracle, sizeof got), 0) << target << ' ' << n << ' ' << special;
        EXPECT_EQ(std::memcmp(got, single, sizeof got), 0) << target << ' ' << n << ' ' << special;
        EXPECT_EQ(largest < kExtraordinaryBits, all_ordinary({x, DType::kFloat32, n})) << target << ' ' << n;
      }
    }
  }
}

TEST(SumsSimd, ADefinedOrder) {
  // Lanes 0 and 16 meet in the first step of the tree: 1 is not lost beside 2^53 there, in ascending order it would be.
  std::vector<float> x(64, 0.0f);
  x[0] = 0x1p53f;
  x[1] = x[17] = 1.0f;
  EXPECT_EQ(sum_below(x.data(), 64, HUGE_VAL).sum, 0x1p53 + 2);
  EXPECT_EQ(sum_below(x.data(), 64, 1.0).sum, 0.0);
  EXPECT_EQ(sum_below(x.data(), 64, 1.0).reached, 3u);
}

}  // namespace
}  // namespace tsq::kernels
