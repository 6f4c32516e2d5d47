// Casts: the formats by brute force, rounding, saturation, constants.
#include "compressors/cast.h"

#include <gtest/gtest.h>

#include "common/fp8.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

Vector sent_and_read(const char* dtype, const Vector& x) {
  const CompressorPtr c = parse_compressor(concat("Cast('", dtype, "')"));
  std::vector<uint8_t> out(c->max_bytes(x.size(), DType::kFloat32));
  EXPECT_TRUE(c->encode(x.view(), {}, out).finite);
  EXPECT_NO_THROW(c->validate(out, x.size(), DType::kFloat32));
  const Vector m(DType::kFloat64, x.size());
  c->decode_add(out, DType::kFloat32, 1.0, m.view());
  return m;
}

// Every code reads back, and rounding picks the nearest number, of two the one with the even code, for values on,
// beside and between all numbers.
template <class F>
void check_format(int mantissa, int bias) {
  std::vector<double> numbers;
  for (uint32_t code = 0; code <= F::kLargestCode; ++code) {
    const int exponent = static_cast<int>(code) >> mantissa, fraction = static_cast<int>(code) & ((1 << mantissa) - 1);
    numbers.push_back(exponent == 0 ? std::ldexp(fraction, 1 - bias - mantissa)
                                    : std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa));
    const float value = F::decode(static_cast<uint8_t>(code));
    ASSERT_EQ(value, numbers.back());
    ASSERT_EQ(F::decode(static_cast<uint8_t>(code | 0x80)), -value);
    ASSERT_EQ(F::encode(value), code);
    ASSERT_EQ(F::encode(-value), code | 0x80);
  }
  const auto nearest = [&](double v) {
    size_t best = 0;
    for (size_t code = 1; code < numbers.size(); ++code) {
      const double d = std::abs(numbers[code] - v), before = std::abs(numbers[best] - v);
      if (d < before || (d == before && code % 2 == 0)) best = code;
    }
    return best;
  };
  for (size_t code = 0; code + 1 < numbers.size(); ++code) {
    const auto middle = static_cast<float>((numbers[code] + numbers[code + 1]) / 2);
    for (const float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f),
                          static_cast<float>(0.7 * numbers[code] + 0.3 * numbers[code + 1])}) {
      ASSERT_EQ(F::encode(v), nearest(v)) << v;
      ASSERT_EQ(F::encode(-v), nearest(v) | 0x80) << v;
    }
  }
  for (const float v : {static_cast<float>(numbers.back()) * 1.0001f, 1e6f, 0x1.FFFFFEp127f, INFINITY})
    ASSERT_EQ(F::encode(v), F::kLargestCode);
  ASSERT_EQ(F::encode(0x1p-149f), 0);
}

TEST(Float8, IsExactToTheBit) {
  check_format<FloatE4M3>(3, 7);
  check_format<FloatE5M2>(2, 15);
}

TEST(Cast, HasItsClassFormatSizeAndSpec) {
  for (const char* name : {"fp16", "bf16", "fp8", "fp8_e5m2"}) {
    const CompressorPtr c = parse_compressor(concat("Cast('", name, "')"));
    EXPECT_EQ(c->spec(), concat("Cast(dtype='", name, "')"));
    EXPECT_EQ(decoder_for(c->format())->spec(), c->spec());
    EXPECT_FALSE(c->class_of(100).omega);
    const bool eight = std::string_view(name).starts_with("fp8");
    EXPECT_EQ(c->max_bytes(600, DType::kFloat32), eight ? 600u + 12 : 1200u);
    EXPECT_EQ(c->max_bytes(0, DType::kFloat32), 0u);
    EXPECT_TRUE(c->has_fixed_size());
  }
  for (const char* bad : {"Cast()", "Cast('fp32')", "Cast(16)", "Cast('fp16', 2)", "Cast(None)"})
    EXPECT_THROW(parse_compressor(bad), SpecError) << bad;
}

TEST(Cast, RoundsToTheNearestAndSaturates) {
  Vector x(DType::kFloat32, 9);
  const double values[] = {0.0, 1.0, -65520.0, 1e30, 0x1p-25, 0x1.8p-25, 1 + 0x1p-11, 1 + 0x1.8p-11, -0x1.FFFFFEp127};
  const double half[] = {0.0, 1.0, -65504.0, 65504.0, 0.0, 0x1p-24, 1.0, 1 + 0x1p-10, -65504.0};
  for (size_t i = 0; i < 9; ++i) x.set(i, values[i]);
  const Vector m = sent_and_read("fp16", x), b = sent_and_read("bf16", x);
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(m[i], half[i]) << i;
  EXPECT_EQ(b[8], -0x1.FEp127);
  EXPECT_EQ(b[4], 0x1p-25);
  EXPECT_EQ(b[6], 1.0);
}

TEST(Cast, EightBitsKeepTheLargestElement) {
  for (const char* dtype : {"fp8", "fp8_e5m2"}) {
    for (const double largest : {1.0, -448.0, 3.7e-5, 0x1p-96, 0x1.FFFFFEp127}) {
      Vector x(DType::kFloat32, 300);
      x.set(7, largest);
      const Vector m = sent_and_read(dtype, x);
      EXPECT_NEAR(m[7] / x[7], 1.0, 0x1p-19) << dtype << ' ' << largest;
      EXPECT_EQ(m[8], 0.0);
      EXPECT_EQ(m[299], 0.0);
    }
    Vector tiny(DType::kFloat32, 2);
    tiny.set(0, 0x1.FFFFFEp-97);
    EXPECT_EQ(sent_and_read(dtype, tiny)[0], 0.0);
  }
}

TEST(Cast, IsContractiveWithItsConstantAndNotMuchBetter) {
  for (const char* dtype : {"fp16", "bf16", "fp8", "fp8_e5m2"}) {
    const double lost = 1 - *parse_compressor(concat("Cast('", dtype, "')"))->class_of(256).alpha;
    double worst = 0;
    const auto take = [&](const Vector& x) {
      const Vector m = sent_and_read(dtype, x);
      double error = 0, norm = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        error += (m[i] - x[i]) * (m[i] - x[i]);
        norm += x[i] * x[i];
      }
      EXPECT_LE(error, lost * norm) << dtype;
      worst = std::max(worst, error / norm);
    };
    for (uint64_t seed = 0; seed < 20; ++seed) take(test::random_vector(DType::kFloat32, 777, seed));
    // The largest element is exact, all others lie in the middle of two numbers just above a power of two.
    for (const int mantissa : {2, 3, 7, 10}) {
      Vector x(DType::kFloat32, 256);
      for (size_t i = 0; i < 256; ++i) x.set(i, (1 + std::ldexp(1.0, -mantissa - 1)) / 4 * (i % 2 ? 1 : -1));
      x.set(0, std::string_view(dtype) == "fp8" ? 448.0 / 256 : 1.75);
      take(x);
    }
    EXPECT_GT(worst, 0.6 * lost) << dtype;
  }
}

// What fp16 cannot do: outside of its range there is no constant.
TEST(Cast, HalfLosesWhatIsTooSmallAndTooLarge) {
  Vector x(DType::kFloat32, 2);
  x.set(0, 0x1p-26);
  x.set(1, 0x1p100);
  const Vector m = sent_and_read("fp16", x);
  EXPECT_EQ(m[0], 0.0);
  EXPECT_EQ(m[1], 65504.0);
}

}  // namespace
}  // namespace tsq
