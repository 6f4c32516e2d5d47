// Natural: its class, its map, fused forms, what it sends for hard input, what it rejects. SIMD: kernels/.
#include "compressors/natural.h"

#include <gtest/gtest.h>

#include "compressors/error_feedback.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

Vector decoded(Bytes payload, DType as, size_t n) {
  const Vector out(as, n);
  Natural().decode_add(payload, as, 1.0, out.view());
  return out;
}

std::vector<uint8_t> encoded(const Vector& x, const EncodeKey& key) {
  std::vector<uint8_t> out(Natural().max_bytes(x.size(), x.view().dtype));
  EXPECT_TRUE(Natural().encode(x.view(), key, out).finite);
  EXPECT_NO_THROW(Natural().validate(out, x.size(), x.view().dtype));
  return out;
}

TEST(Natural, HasItsClassFormatAndSpec) {
  const Natural natural;
  EXPECT_EQ(*natural.class_of(1000).omega, 0.125);
  EXPECT_EQ(*natural.class_of(1000).alpha, 0.875);
  EXPECT_TRUE(natural.format() == (wire::Format{wire::Codec::kNatural, 0, wire::Levels::kUnbiased, 0}));
  EXPECT_EQ(natural.as_contractive()->spec(), "Natural()");
  EXPECT_EQ(natural.as_unbiased()->spec(), "Natural()");
  EXPECT_EQ(parse_compressor("Natural()")->spec(), "Natural()");
  EXPECT_EQ(decoder_for(natural.format())->spec(), "Natural()");
  EXPECT_EQ(natural.max_bytes(600, DType::kFloat16), 600u + 3 * 32);
  EXPECT_EQ(natural.max_bytes(0, DType::kFloat32), 0u);
  EXPECT_THROW(parse_compressor("Natural(256)"), SpecError);
}

// The mean and variance of one element at m, over many dithers: m = 1/3 attains the class.
TEST(Natural, IsUnbiasedWithinItsVariance) {
  const size_t n = 1 << 18;
  double worst = 0;
  for (const double m : {0.0, 0.001, 0.25, 1.0 / 3, 0.5, 0.9, 0.99999}) {
    for (const double power : {-4.0, 0x1p-126, 0x1p100}) {
      const double v = static_cast<float>(power * (1 + m)), low = power, high = 2 * power;
      Vector x(DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) x.set(i, v);
      const Vector out = decoded(encoded(x, {philox_key({.seed = 3}), 0}), DType::kFloat32, n);
      double sum = 0, error = 0;
      for (size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(out[i] == low || (out[i] == high && m > 0)) << out[i] << " for " << v;
        sum += out[i] / v;
        error += (out[i] / v - 1) * (out[i] / v - 1);
      }
      EXPECT_NEAR(sum / double(n), 1.0, 5 * std::sqrt(0.125 / double(n)) + 0x1p-17) << v;
      EXPECT_LE(error / double(n), 0.125 * 1.02);
      worst = std::max(worst, error / double(n) / 0.125);
    }
  }
  EXPECT_GT(worst, 0.98);
}

class NaturalForms : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, NaturalForms, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(NaturalForms, FusedFormsAreTheComposedOnes) {
  const DType dtype = GetParam(), state = state_dtype(dtype);
  const Natural c;
  const auto round = [&](double v) {
    return state == DType::kFloat64 ? v : static_cast<double>(static_cast<float>(v));
  };
  for (const size_t n : {0, 1, 255, 256, 257, 5000}) {
    const EncodeKey key{philox_key({.seed = n}), 512};
    const Vector x = test::random_vector(dtype, n, 1), s = test::random_vector(state, n, 2);
    for (const bool residual : {true, false}) {
      Vector input(state, n), next(s), expected(state, n);
      for (size_t i = 0; i < n; ++i) input.set(i, round(residual ? s[i] + x[i] : x[i] - s[i]));
      std::vector<uint8_t> fused(c.max_bytes(n, dtype));
      const auto sent = residual ? c.encode_residual(x.view(), next.view(), key, fused)
                                 : c.encode_shifted(x.view(), next.view(), key, fused);
      ASSERT_TRUE(sent.finite && sent.bytes == fused.size());
      ASSERT_EQ(fused, encoded(input, key)) << n;
      const Vector m = decoded(fused, state, n);
      for (size_t i = 0; i < n; ++i) expected.set(i, round(residual ? input[i] - m[i] : s[i] + m[i]));
      ASSERT_EQ(test::max_difference(next.view(), expected.view()), 0.0) << n;
    }
  }
}

TEST_P(NaturalForms, SlicesAtTheGranularityGiveTheValuesOfTheWhole) {
  const size_t n = 1500;
  const Vector x = test::random_vector(GetParam(), n, 9);
  const PhiloxKey key = philox_key({.seed = 1});
  const std::vector<uint8_t> whole = encoded(x, {key, 0});
  std::vector<uint8_t> parts;
  for (size_t begin = 0; begin < n; begin += 512) {
    const size_t count = std::min<size_t>(n - begin, 512);
    const auto part = encoded(Vector(ConstView(x.view()).slice(begin, count)), {key, begin});
    parts.insert(parts.end(), part.begin(), part.end());
  }
  EXPECT_EQ(parts, whole);
}

TEST_P(NaturalForms, KeepsWhatItDoesNotSend) {
  const auto [given, accounted, largest] = test::balance_of_error_feedback(Natural(), GetParam());
  for (size_t i = 0; i < given.size(); ++i) ASSERT_NEAR(accounted[i], given[i], 2e-5) << i;
}

TEST(Natural, ZeroTinyHugeAndNonFiniteTiles) {
  const Natural c;
  for (const double bad : {0x1p127, double(INFINITY), double(NAN)}) {
    Vector x(DType::kFloat32, 600), e(DType::kFloat32, 600);
    const double values[] = {0.0, -0.0, -0x1p-149, 0x1.FFFFFCp-127, -0x1p-126, 0x1.FFFFFEp126, 1.0};
    for (size_t i = 0; i < 600; ++i) x.set(i, values[i % 7]);
    x.set(300, bad);  // tile 1
    for (size_t i = 0; i < 600; ++i) e.set(i, 0.0);
    std::vector<uint8_t> out(c.max_bytes(600, DType::kFloat32));
    EXPECT_FALSE(c.encode_residual(x.view(), e.view(), {}, out).finite);
    EXPECT_NO_THROW(c.validate(out, 600, DType::kFloat32));
    const Vector m = decoded(out, DType::kFloat32, 600);
    for (size_t i = 0; i < 600; ++i) {
      if (i >= 256 && i < 512) {
        ASSERT_TRUE(m[i] == 0 && e[i] == 0) << i;
      } else if (i % 7 < 4) {
        ASSERT_TRUE(m[i] == 0 && e[i] == x[i]) << i;  // stays in the residual
      } else if (i % 7 == 5) {
        ASSERT_TRUE(m[i] == 0x1p126 || m[i] == 0x1p127) << i;
      } else {
        ASSERT_EQ(m[i], x[i]);
      }
    }
  }
}

TEST(Natural, RejectsIllegalPayloads) {
  const Natural c;
  const std::vector<uint8_t> good = encoded(test::random_vector(DType::kFloat32, 300, 1), {});
  const auto rejects = [&](size_t at, uint8_t value, size_t zero_at) {
    std::vector<uint8_t> bad = good;
    bad[zero_at] = 0;
    bad[at] = value;
    EXPECT_THROW(c.validate(bad, 300, DType::kFloat32), WireError) << at;
  };
  rejects(3, 255, 3);                      // an infinite one, in a full tile
  rejects(288 + 3, 255, 288 + 3);          // and in the last
  rejects(256 + 5, 0xFF, 5);               // a negative zero
  rejects(288 + 44 + 5, 0x01, 288 + 5);    // and in the last
  rejects(288 + 44 + 31, 0x02, 288 + 31);  // 44 elements: lane 31 has one row
  EXPECT_THROW(c.validate(Bytes(good).first(good.size() - 1), 300, DType::kFloat32), WireError);
  for (const uint64_t n : {uint64_t{301}, uint64_t{0}, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 255})
    EXPECT_THROW(c.validate(good, n, DType::kFloat32), WireError) << n;
  EXPECT_NO_THROW(c.validate({}, 0, DType::kFloat32));
}

}  // namespace
}  // namespace tsq
