// 16-bit scales: which bfloat16 number a block gets, that the unbiased grid stays unbiased, and the ends of the range.
// That SIMD equals the oracle: quantizer_simd_test.cpp; class constants: compressors/.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <random>

#include "common/bytes.h"
#include "gaussian.h"
#include "kernels/payload.h"
#include "kernels/quantizer.h"

namespace tsq::kernels {
namespace {

constexpr Rounding kRoundings[] = {Rounding::kStochastic, Rounding::kNearest, Rounding::kFit, Rounding::kSign};

QuantizerParams params_of(int bits, uint32_t block, Rounding rounding, float shrink = 1.0f) {
  return {bits, block, rounding, shrink, true};
}

std::vector<uint8_t> encode(const QuantizerParams& params, const std::vector<float>& x, PhiloxKey key = {3, 4}) {
  std::vector<uint8_t> payload(quantizer_bytes(x.size(), params));
  EXPECT_TRUE(quantize(params, Form::kPlain, {x.data(), DType::kFloat32, x.size()}, nullptr, key, 0, payload.data()));
  EXPECT_TRUE(valid_payload(params, payload.data(), x.size()));
  return payload;
}

std::vector<float> decode(const QuantizerParams& params, const std::vector<uint8_t>& payload, size_t n) {
  std::vector<float> values(n);
  const uint8_t* in = payload.data();
  dequantize_mean(params, &in, 1, {values.data(), DType::kFloat32, n});
  return values;
}

float first_scale(const std::vector<uint8_t>& payload) { return to_float(BFloat16{load<uint16_t>(payload.data())}); }

using test::gaussian;

// Calls f(bits, rounding) for all that exist.
template <class F>
void for_all_kinds(F&& f) {
  for (int bits = 1; bits <= 8; ++bits)
    for (const Rounding rounding : kRoundings)
      if (rounding != Rounding::kSign || bits == 1) f(bits, rounding);
}

TEST(Bf16Scales, TakeTwoBytes) {
  EXPECT_EQ(quantizer_bytes(1000, params_of(4, 32, Rounding::kFit)),
            quantizer_bytes(1000, 4, 32) - 2 * ((1000 + 31) / 32));
  EXPECT_EQ(quantizer_bytes(1000, {4, 32, Rounding::kFit, 1.0f}), quantizer_bytes(1000, 4, 32));
}

TEST(Bf16Scales, OfUnbiasedGridsReachTheMaximum) {
  for (int bits = 1; bits <= 8; ++bits) {
    const float top = bits == 1 ? 1.0f : static_cast<float>((1 << (bits - 1)) - 1);
    for (uint32_t seed = 0; seed < 300; ++seed) {
      const std::vector<float> x = gaussian(32, seed);
      float largest = 0;
      for (const float v : x) largest = std::max(largest, std::abs(v));
      const float scale = first_scale(encode(params_of(bits, 32, Rounding::kStochastic), x));
      ASSERT_GE(scale, largest / top);
      ASSERT_LT(scale, largest / top * (1.0f + 0x1p-7f));
      ASSERT_LT(std::bit_cast<float>(std::bit_cast<uint32_t>(scale) - 0x10000u), largest / top);  // the first such
    }
  }
}

// The mean of <C(x), x> / <x, x> is 1: dividing by the maximum instead of the rounded scale would be off by up to 2^-7.
TEST(Bf16Scales, StayUnbiased) {
  constexpr uint32_t kKeys = 4000;
  for (int bits = 1; bits <= 8; ++bits) {
    const QuantizerParams params = params_of(bits, 256, Rounding::kStochastic);
    std::vector<float> x = gaussian(256, 1);
    for (float& v : x) v = std::clamp(v, -0.99f, 0.99f);
    x[0] = 1.0f + 0x1p-20f;  // times 1 / top: just above a bfloat16 number for one and two bits
    double norm = 0, mean = 0, square = 0;
    for (const float v : x) norm += double{v} * v;
    for (uint32_t key = 0; key < kKeys; ++key) {
      const std::vector<float> y = decode(params, encode(params, x, {key, 5}), x.size());
      double inner = 0;
      for (size_t i = 0; i < x.size(); ++i) inner += double{x[i]} * y[i];
      mean += inner / norm / kKeys;
      square += inner / norm * inner / norm / kKeys;
    }
    const double deviation = std::sqrt((square - mean * mean) / kKeys);
    EXPECT_LT(deviation, 1e-3) << bits;  // so that a relative 2^-8 shows
    EXPECT_NEAR(mean, 1.0, 4 * deviation + 1e-5) << bits;
  }
}

// `fit` and Sign choose as with fp32 scales and round the result to nearest.
TEST(Bf16Scales, OfFitAndSignAreTheNearest) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const Rounding rounding : {Rounding::kFit, Rounding::kSign}) {
      if (rounding == Rounding::kSign && bits > 1) continue;
      for (uint32_t seed = 0; seed < 100; ++seed) {
        const size_t n = seed % 2 == 0 ? 256 : 100;  // SIMD, oracle
        const std::vector<float> x = gaussian(n, seed);
        QuantizerParams params = params_of(bits, 256, rounding);
        const std::vector<uint8_t> narrow = encode(params, x);
        params.bf16_scales = false;
        const std::vector<uint8_t> wide = encode(params, x);
        ASSERT_TRUE(std::equal(narrow.begin() + 2, narrow.end(), wide.begin() + 4, wide.end())) << bits;
        ASSERT_EQ(load<uint16_t>(narrow.data()), to_bfloat16(load<float>(wide.data())).bits) << bits;
      }
    }
  }
}

// From 2^-102 on every scale is a normal number, whatever the block looks like; below, a block is empty.
TEST(Bf16Scales, AreNeverDenormal) {
  for_all_kinds([](int bits, Rounding rounding) {
    for (const uint32_t block : {32u, 4096u}) {
      for (const bool alone : {false, true}) {
        for (const size_t n : {size_t{block}, size_t{block} - 1}) {  // SIMD, oracle
          std::vector<float> x(n, alone ? 0.0f : 0x1.5p-103f);
          x[n / 2] = 0x1p-102f;
          const QuantizerParams params = params_of(bits, block, rounding, 1.0f / static_cast<float>(block));
          EXPECT_GE(std::abs(first_scale(encode(params, x))), FLT_MIN) << bits << static_cast<int>(rounding);
          x[n / 2] = 0x1.FFFFFEp-103f;
          const std::vector<uint8_t> empty = encode(params, x);
          EXPECT_TRUE(std::all_of(empty.begin(), empty.end(), [](uint8_t byte) { return byte == 0; })) << bits;
        }
      }
    }
  });
}

TEST(Bf16Scales, KeepHugeValuesFinite) {
  for_all_kinds([](int bits, Rounding rounding) {
    const QuantizerParams params = params_of(bits, 64, rounding);
    for (const float v : {0x1p119f, 0x1.FFFFFEp119f, 0x1p120f, 0x1.FDp127f, 0x1.FFp127f, FLT_MAX}) {
      std::vector<float> x(600, 0.25f * v), state(600, 0.0f);
      for (size_t i = 0; i < x.size(); i += 3) x[i] = i % 2 ? -v : v;
      const std::vector<float> values = decode(params, encode(params, x), x.size());
      for (size_t i = 0; i < x.size(); i += 3) {
        ASSERT_TRUE(std::isfinite(values[i])) << bits << ' ' << v;
        if (bits > 1) {  // within a level, and what the cap keeps back
          ASSERT_NEAR(values[i] / x[i], 1.0, 1.02 / ((1 << (bits - 1)) - 1)) << bits << ' ' << v;
        }
      }
      if (v > 0x1p120f) continue;  // a one-bit value of the other sign leaves a residual of 2 v
      std::vector<uint8_t> payload(quantizer_bytes(x.size(), params));
      EXPECT_TRUE(quantize(params, Form::kResidual, {x.data(), DType::kFloat32, x.size()}, state.data(), {}, 0,
                           payload.data()));
      EXPECT_TRUE(all_finite({state.data(), DType::kFloat32, state.size()})) << bits << ' ' << v;
    }
  });
}

// The largest 16-bit scale below the cap is legal, the next one is refused; signs and empty blocks as with fp32.
TEST(Bf16Scales, AreCheckedAsFp32OnesAre) {
  for_all_kinds([](int bits, Rounding rounding) {
    const bool fit = rounding == Rounding::kFit;
    const float top = static_cast<float>(bits == 1 ? 1 : fit ? (1 << bits) - 1 : (1 << (bits - 1)) - 1);
    const auto cap = static_cast<uint16_t>(std::bit_cast<uint32_t>(0x1.FFFFFp127f / top) >> 16 | (fit ? 0x8000 : 0));
    for (const size_t n : {size_t{256}, size_t{100}}) {
      const QuantizerParams params = params_of(bits, 256, rounding);
      const std::vector<uint8_t> good = encode(params, gaussian(n, 5));
      const auto valid = [&](uint16_t scale) {
        std::vector<uint8_t> payload = good;
        store(payload.data(), scale);
        const bool accepted = valid_payload(params, payload.data(), n);
        EXPECT_EQ(accepted, scalar::valid_payload(params, payload.data(), n));
        return accepted;
      };
      EXPECT_TRUE(valid(cap)) << bits;
      EXPECT_FALSE(valid(static_cast<uint16_t>(cap + 1))) << bits;
      for (const uint16_t scale : {0x7F80, 0xFF80, 0x7FC0, 0x0000}) EXPECT_FALSE(valid(scale)) << bits << ' ' << scale;
      EXPECT_EQ(valid(0xBF80), fit) << bits;
      EXPECT_EQ(valid(0x8000), fit) << bits;
    }
  });
}

}  // namespace
}  // namespace tsq::kernels
