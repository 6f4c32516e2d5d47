// The error bounds that the theory of error feedback and of unbiased compression builds on, and the errors on typical
// blocks.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/payload.h"
#include "kernels/quantizer.h"
#include "kernels/scalar.h"

namespace tsq::kernels {
namespace {

std::vector<float> compress(const QuantizerParams& params, const std::vector<float>& x, PhiloxKey key = {}) {
  std::vector<uint8_t> payload(quantizer_bytes(x.size(), params.bits, params.block));
  quantize(params, Form::kPlain, {x.data(), DType::kFloat32, x.size()}, nullptr, key, 0, payload.data());
  std::vector<float> values(x.size());
  const uint8_t* in = payload.data();
  dequantize_mean(params, &in, 1, {values.data(), DType::kFloat32, x.size()});
  return values;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

double squared_error(const std::vector<float>& x, const std::vector<float>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (double{x[i]} - double{y[i]}) * (double{x[i]} - double{y[i]});
  return sum;
}

double largest_level(int bits) { return bits == 1 ? 1 : (1 << (bits - 1)) - 1; }

// A block that is hard in one of several ways.
std::vector<float> hard_block(size_t block, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(block);
  const float level = 1.0f / static_cast<float>(1 + random() % 127);
  for (float& v : x) {
    const float gauss = normal(random);
    switch (seed % 6) {
      case 0:
        v = gauss;
        break;
      case 1:
        v = gauss * gauss * gauss * gauss * gauss;
        break;
      case 2:
        v = random() % 50 == 0 ? gauss : 0.0f;
        break;
      case 3:
        v = std::copysign(level / 2, gauss);
        break;
      case 4:
        v = std::copysign(1.0f, gauss);
        break;
      case 5:
        v = std::abs(gauss) * level;
        break;
    }
  }
  if (seed % 2 == 1) x[random() % block] = 1.0f;
  if (seed % 6 == 4 && seed % 5 == 0) std::fill(x.begin() + 1, x.end(), 0.0f);
  x[0] += 1e-6f;  // never empty
  return x;
}

// Over all dithers of a 16-bit draw, the mean of the levels is the scaled element to 2^-17 of a level, and rounding.
TEST(Unbiased, IsUnbiasedOverAllDithers) {
  for (int bits = 1; bits <= 8; ++bits) {
    const float s = static_cast<float>(largest_level(bits)), largest = 0.7f;
    const float inverse = (bits == 1 ? 0.5f : s) / largest;
    for (int step = 0; step <= 200; ++step) {
      const float x = largest * (static_cast<float>(step) / 100.0f - 1.0f);
      double sum = 0;
      for (uint32_t r = 0; r < 65536; ++r) {
        const float u = std::bit_cast<float>(0x3F800040u | r << 7) - 1.5f;
        const float v = x * inverse + u;
        sum += bits == 1 ? (v >= 0 ? 0.5 : -0.5) : double(std::clamp((v + 12582912.0f) - 12582912.0f, -s, s));
      }
      EXPECT_NEAR(sum / 65536, double{x} * inverse, std::ldexp(1.0, -17) + s * std::ldexp(1.0, -23))
          << bits << " " << x;
    }
  }
}

// The same by the kernel itself: elements of one value, sorted by the dither that each has drawn, until every one of
// the 2^16 has come up. What is decoded is a function of the dither, and its mean over all of them is the element.
TEST(Unbiased, TheKernelIsUnbiasedOverAllDithers) {
  constexpr size_t kElements = size_t{1} << 21, kBlock = 256;
  constexpr PhiloxKey kKey{7, 8};
  std::vector<uint32_t> dither(kElements);
  for (size_t i = 0; i < kElements; ++i) dither[i] = scalar::dither_bits(kKey, i);
  for (int bits = 1; bits <= 8; ++bits) {
    const double s = bits == 1 ? 0.5 : largest_level(bits);
    for (const float x : {0.0f, 0.013f, -0.2f, 0.35f, 0.6999f}) {
      std::vector<float> v(kElements, x);
      for (size_t i = 0; i < kElements; i += kBlock) v[i] = 0.7f;
      const std::vector<float> got = compress({bits, kBlock, Rounding::kStochastic, 1.0f}, v, kKey);
      std::vector<double> value(65536, NAN);
      for (size_t i = 0; i < kElements; ++i) {
        if (i % kBlock == 0) continue;
        double& seen = value[dither[i]];
        ASSERT_TRUE(std::isnan(seen) || seen == double{got[i]}) << bits << ' ' << x << ' ' << dither[i];
        seen = got[i];
      }
      double mean = 0;
      for (const double m : value) mean += m / 65536;  // NaN if a dither is missing
      const double level = 0.7 / s;
      EXPECT_NEAR(mean, double{x}, level * (std::ldexp(1.0, -17) + s * std::ldexp(1.0, -22))) << bits << ' ' << x;
    }
  }
}

double omega(int bits, size_t block) {
  if (bits == 1) return static_cast<double>(block - 1);
  const double s = largest_level(bits);
  return (std::sqrt(1 + static_cast<double>(block - 1) / (s * s)) - 1) / 2;
}

// Mean squared error of the kernel over many keys, relative to |x|^2.
double relative_variance(const QuantizerParams& params, const std::vector<float>& x, uint32_t keys) {
  double sum = 0;
  for (uint32_t key = 0; key < keys; ++key) sum += squared_error(x, compress(params, x, {key, 77}));
  return sum / (dot(x, x) * keys);
}

TEST(Unbiased, VarianceIsBoundedAndTheBoundAttained) {
  for (const uint32_t block : {32u, 256u}) {
    for (int bits = 1; bits <= 8; ++bits) {
      const QuantizerParams params{bits, block, Rounding::kStochastic, 1.0f};
      const double s = largest_level(bits), bound = omega(bits, block);
      const double t = bits == 1 ? 0.0 : 1 / (1 + std::sqrt(1 + (block - 1) / (s * s)));
      std::vector<float> worst(block, static_cast<float>(t / s));
      worst[block / 3] = -1.0f;
      const double reached = relative_variance(params, worst, 1000);
      EXPECT_NEAR(reached, bound, 0.03 * bound) << bits << " " << block;
      for (uint64_t seed = 0; seed < 12; ++seed) {
        EXPECT_LE(relative_variance(params, hard_block(block, seed), 100), bound * 1.1) << bits << " " << block;
      }
    }
  }
}

TEST(Unbiased, ShrinkMakesItContractive) {
  const QuantizerParams plain{2, 256, Rounding::kStochastic, 1.0f};
  QuantizerParams shrunk = plain;
  shrunk.shrink = static_cast<float>(1 / (1 + omega(2, 256)));
  const std::vector<float> x = hard_block(256, 3);
  EXPECT_LE(relative_variance(shrunk, x, 500), 1 - double{shrunk.shrink} + 0.02);
  const std::vector<float> a = compress(plain, x), b = compress(shrunk, x);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_FLOAT_EQ(a[i] * shrunk.shrink, b[i]);
}

double alpha(int bits, size_t block) {
  const double s = largest_level(bits);
  return 1 / (1 + static_cast<double>(block - 1) / (4 * s * s));
}

TEST(Nearest, IsContractive) {
  for (const uint32_t block : {32u, 256u}) {
    for (int bits = 2; bits <= 8; ++bits) {
      const QuantizerParams params{bits, block, Rounding::kNearest, 1.0f};
      const double bound = 1 - alpha(bits, block);
      for (uint64_t seed = 0; seed < 300; ++seed) {
        const std::vector<float> x = hard_block(block, seed);
        ASSERT_LE(squared_error(x, compress(params, x)), bound * dot(x, x) * (1 + 1e-5)) << bits << " " << seed;
      }
      std::vector<float> worst(block, static_cast<float>(0.49999 / largest_level(bits)));  // just rounded down
      worst[0] = 1.0f;
      EXPECT_NEAR(squared_error(worst, compress(params, worst)) / dot(worst, worst), bound, 1e-3 * bound);
    }
  }
}

TEST(Fit, IsAProjectionAndContractive) {
  for (const uint32_t block : {32u, 256u}) {
    for (int bits = 1; bits <= 8; ++bits) {
      const QuantizerParams params{bits, block, Rounding::kFit, 1.0f};
      const double bound = 1 - (bits == 1 ? 1.0 / block : alpha(bits, block));
      for (uint64_t seed = 0; seed < 300; ++seed) {
        const std::vector<float> x = hard_block(block, seed), y = compress(params, x);
        const double norm = dot(x, x), error = squared_error(x, y), inner = dot(x, y);
        ASSERT_LE(error, (bound + 1e-6) * norm) << bits << " " << block << " " << seed;
        ASSERT_NEAR(error, norm - inner * inner / dot(y, y), 1e-6 * norm) << bits << " " << block << " " << seed;
      }
    }
  }
}

// Mean relative squared error of `fit` on blocks of 256 of which each element is non-zero with probability `density`.
double typical_error(int bits, double density) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<double> uniform;
  double error = 0, norm = 0;
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<float> x(256);
    for (float& v : x) v = uniform(random) < density ? normal(random) : 0.0f;
    x[0] += 1e-3f;
    error += squared_error(x, compress({bits, 256, Rounding::kFit, 1.0f}, x));
    norm += dot(x, x);
  }
  return error / norm;
}

TEST(Fit, IsGoodOnGaussianBlocks) {
  EXPECT_LE(typical_error(1, 1.0), 0.37);
  EXPECT_LE(typical_error(2, 1.0), 0.12);
  EXPECT_LE(typical_error(3, 1.0), 0.038);
  EXPECT_LE(typical_error(4, 1.0), 0.0117);
}

TEST(Fit, IsGoodOnSparseBlocks) {
  EXPECT_LE(typical_error(2, 0.05), 0.31);
  EXPECT_LE(typical_error(3, 0.05), 0.036);
  EXPECT_LE(typical_error(4, 0.05), 0.0066);
}

}  // namespace
}  // namespace tsq::kernels
