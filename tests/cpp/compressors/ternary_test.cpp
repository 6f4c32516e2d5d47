// Ternary: its constants, its map, what it sends for hard input, what it rejects. Forms, slices and lengths, which it
// shares with the quantizer: quantizer_test.cpp; SIMD (two bits, unbiased): kernels/quantizer_simd_test.cpp.
#include "compressors/ternary.h"

#include <gtest/gtest.h>

#include "compressors/quantizer.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

Vector decoded(const Compressor& c, Bytes payload, size_t n) {
  const Vector out(DType::kFloat64, n);
  c.decode_add(payload, DType::kFloat64, 1.0, out.view());
  return out;
}

std::vector<uint8_t> encoded(const Compressor& c, const Vector& x, uint64_t step = 0) {
  std::vector<uint8_t> out(c.max_bytes(x.size(), x.view().dtype));
  EXPECT_TRUE(c.encode(x.view(), {philox_key({.step = step}), 0}, out).finite);
  EXPECT_NO_THROW(c.validate(out, x.size(), x.view().dtype));
  return out;
}

TEST(Ternary, HasItsClassFormatAndSpec) {
  const Ternary ternary;
  EXPECT_EQ(*ternary.class_of(10'000).omega, 7.5);
  EXPECT_EQ(*ternary.class_of(1).omega, 0.0);
  EXPECT_EQ(*ternary.class_of(1).alpha, 1.0);
  EXPECT_FALSE(ternary.class_of(10'000).alpha);
  EXPECT_EQ(*Ternary(1024).class_of(100).omega, 4.5);
  const CompressorPtr contractive = ternary.as_contractive();
  EXPECT_FALSE(contractive->class_of(256).omega);
  EXPECT_NEAR(*contractive->class_of(256).alpha, 1 / 8.5, 1e-7);
  EXPECT_NEAR(*contractive->class_of(1).alpha, 2 / 8.5 - 1 / (8.5 * 8.5), 1e-7);  // the scale is that of a whole block
  EXPECT_EQ(dynamic_cast<const Ternary&>(*contractive).shrink(), static_cast<float>(1 / 8.5));
  EXPECT_EQ(dynamic_cast<const Ternary&>(*contractive->as_unbiased()).shrink(), 1.0f);
  EXPECT_TRUE(ternary.format() == (wire::Format{wire::Codec::kTernary, 2, wire::Levels::kUnbiased, 256}));
  EXPECT_EQ(contractive->spec(), "Ternary()");
  EXPECT_EQ(parse_compressor("Ternary(512)")->spec(), "Ternary(block=512)");
  EXPECT_EQ(decoder_for(Ternary(64).format())->spec(), "Ternary(block=64)");
  for (const uint32_t block : {0u, 16u, 48u, 8192u}) EXPECT_THROW(Ternary{block}, ArgumentError);
  EXPECT_THROW(parse_compressor("Ternary(block=48)"), SpecError);
}

/// Random, one-hot, flat, and the worst input of its class: one maximum, the others at 1 / (1 + sqrt(n)) of it.
std::vector<Vector> hard_inputs(size_t n) {
  std::vector<Vector> out;
  for (uint64_t seed = 0; seed < 3; ++seed) out.push_back(test::random_vector(DType::kFloat64, n, seed));
  for (const double fraction : {0.0, 1.0, 1 / (1 + std::sqrt(static_cast<double>(n))), 0.5}) {
    Vector x(DType::kFloat64, n);
    for (size_t i = 0; i < n; ++i) x.set(i, (i % 2 ? -1 : 1) * fraction);
    x.set(n / 3, 1.0);
    out.push_back(x);
  }
  return out;
}

TEST(Ternary, SendsZeroOrTheMaximumUnbiasedWithinItsVariance) {
  constexpr int kDraws = 400;
  const size_t n = 256;
  double worst = 0;
  for (const CompressorPtr& c : {CompressorPtr(std::make_shared<Ternary>()), Ternary().as_contractive()}) {
    const Class k = c->class_of(n);
    for (const Vector& x : hard_inputs(n)) {
      const double largest = test::max_abs(x.view());
      double error = 0, norm = 0;
      std::vector<double> mean(n);
      for (uint64_t step = 0; step < kDraws; ++step) {
        const Vector m = decoded(*c, encoded(*c, x, step), n);
        for (size_t i = 0; i < n; ++i) {
          error += (m[i] - x[i]) * (m[i] - x[i]) / kDraws;
          mean[i] += m[i] / kDraws;
          if (k.omega && m[i] != 0) {
            ASSERT_EQ(m[i], std::copysign(static_cast<double>(static_cast<float>(largest)), x[i]));
          }
        }
      }
      for (size_t i = 0; i < n; ++i) {
        norm += x[i] * x[i];
        if (!k.omega) continue;
        const double deviation = std::sqrt(std::abs(x[i]) * (largest - std::abs(x[i])) / kDraws);
        ASSERT_NEAR(mean[i], x[i], 5 * deviation + 3 * largest / kDraws) << i;
      }
      const double bound = k.omega ? *k.omega : 1 - *k.alpha;
      EXPECT_LE(error, norm * bound * 1.05);
      if (k.omega) worst = std::max(worst, error / norm / bound);
    }
  }
  EXPECT_GT(worst, 0.95);  // the exact supremum
}

TEST(Ternary, IsTheTwoBitQuantizer) {
  for (const size_t n : {0, 1, 31, 257, 5000}) {
    const Vector x = test::random_vector(DType::kFloat32, n, n);
    const Quantizer quantizer({2, 64, QuantizerLevels::kUnbiased, std::nullopt});
    EXPECT_EQ(encoded(Ternary(64), x, 3), encoded(quantizer, x, 3));
  }
}

TEST(Ternary, ZeroTinyHugeAndNonFiniteBlocks) {
  const Ternary ternary(32);
  const size_t n = 256;
  Vector x(DType::kFloat32, n), e(DType::kFloat32, n);
  const double values[] = {0.0, 0x1p-149, 0x1.FFp-119, 0x1p-118, 0x1p96, 0x1p120, 0x1.FFFFFEp127, double(INFINITY)};
  for (size_t i = 0; i < n; ++i) x.set(i, (i % 2 ? -1 : 1) * values[i / 32]);
  std::vector<uint8_t> out(ternary.max_bytes(n, DType::kFloat32));
  EXPECT_FALSE(ternary.encode_residual(x.view(), e.view(), {}, out).finite);
  EXPECT_NO_THROW(ternary.validate(out, n, DType::kFloat32));
  for (const size_t j : {0, 1, 2, 7}) EXPECT_EQ(load<uint32_t>(out.data() + 4 * j), 0u);
  EXPECT_EQ(load<float>(out.data() + 24), 0x1.FFFFFp127f);  // the cap
  for (size_t i = 0; i < n; ++i) EXPECT_EQ(e[i], i < 96 ? x[i] : i >= 192 && i < 224 ? e[i] : 0.0) << i;
  for (size_t i = 192; i < 224; ++i) EXPECT_LT(std::abs(e[i]), 0x1p108) << i;  // what the cap kept back
}

TEST(Ternary, RejectsIllegalPayloads) {
  const Ternary ternary(32);
  const std::vector<uint8_t> good = encoded(ternary, test::random_vector(DType::kFloat32, 300, 1));
  const auto with = [&](size_t at, uint32_t value, size_t bytes) {
    std::vector<uint8_t> bad = good;
    std::memcpy(bad.data() + at, &value, bytes);
    return bad;
  };
  for (const uint32_t scale : {0x7F800000u, 0x7FC00000u, 0xBF800000u, 0x80000000u, 0u})
    EXPECT_THROW(ternary.validate(with(0, scale, 4), 300, DType::kFloat32), WireError) << scale;
  EXPECT_THROW(ternary.validate(with(40, 3, 1), 300, DType::kFloat32), WireError);                  // code 3
  EXPECT_THROW(ternary.validate(with(good.size() - 1, 0x10, 1), 300, DType::kFloat32), WireError);  // beyond the end
  EXPECT_THROW(ternary.validate(Bytes(good).first(good.size() - 1), 300, DType::kFloat32), WireError);
  EXPECT_THROW(ternary.validate(good, UINT64_MAX, DType::kFloat32), WireError);
}

}  // namespace
}  // namespace tsq
