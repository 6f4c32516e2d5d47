// UniformStep: its classes, rates, sizes and fused forms. Hard input and bytes: uniform_step_edges_test.cpp; SIMD:
// kernels/.
#include "compressors/uniform.h"

namespace tsq {
namespace {

using test::data;
using test::decoded;
using test::encoded;
using test::Kind;
using test::loss;
using test::Octets;
using test::Vector;

TEST(UniformStep, HasItsFormatAndSpecs) {
  for (const char* text : {"UniformStep(bits=1.0)", "UniformStep(bits=0.2, rounding='nearest')",
                           "UniformStep(step=0.001)", "UniformStep(step=1.0, rounding='stochastic')"})
    EXPECT_EQ(parse_compressor(text)->spec(), text);
  EXPECT_EQ(parse_compressor("UniformStep(2)")->spec(), "UniformStep(bits=2.0)");
  const CompressorPtr c = parse_compressor("UniformStep(bits=0.5)");
  EXPECT_TRUE(c->format() == (wire::Format{wire::Codec::kUniformStep, 0, 0, 0}));
  EXPECT_EQ(c->as_contractive()->spec(), "UniformStep(bits=0.5, rounding='nearest')");
  EXPECT_EQ(c->as_unbiased()->spec(), "UniformStep(bits=0.5, rounding='stochastic')");
  EXPECT_EQ(c->as_unbiased()->as_contractive()->spec(), "UniformStep(bits=0.5, rounding='stochastic')");
  EXPECT_EQ(c->target_bits(), 0.5);
  EXPECT_EQ(parse_compressor("UniformStep(step=1)")->target_bits(), std::nullopt);
  EXPECT_EQ(c->expected_bits(1000, DType::kFloat32), 500.0);
  EXPECT_EQ(c->zero_bytes(1000, DType::kFloat32), 8u);
  EXPECT_EQ(c->max_bytes(0, DType::kFloat32), 4u);
  EXPECT_FALSE(c->has_fixed_size());
  for (const char* bad : {"UniformStep()", "UniformStep(1, 1)", "UniformStep(0)", "UniformStep(bits=12.5)",
                          "UniformStep(-1)", "UniformStep(step=0)", "UniformStep(step=1e-40)", "UniformStep(step=1e34)",
                          "UniformStep(step=1e400)", "UniformStep(bits='1')", "UniformStep(1, rounding='fit')"})
    EXPECT_THROW(parse_compressor(bad), SpecError) << bad;
}

TEST(UniformStep, IsTheNearestMultipleOfItsStep) {
  const size_t n = 10'000;
  const float step = 3e-3f;
  const CompressorPtr c = parse_compressor("UniformStep(step=0.003, rounding='nearest')");
  const Vector x = data(Kind::kHeavy, n, 1);
  const Vector m = decoded(encoded(*c, x), DType::kFloat32, n);
  size_t escapes = 0;
  for (size_t i = 0; i < n; ++i) {
    const float t = static_cast<float>(x[i]) * (1 / step), q = std::nearbyint(t);
    ASSERT_EQ(m[i], q * step) << i;
    escapes += std::abs(q) >= 16;
  }
  EXPECT_GT(escapes, 0u);
}

TEST(UniformStep, ContractsAndTheWorstInputAttainsTheConstant) {
  EXPECT_EQ(parse_compressor("UniformStep(step=1)")->class_of(10).alpha, std::nullopt);
  EXPECT_EQ(parse_compressor("UniformStep(step=1)")->as_unbiased()->class_of(10).omega, std::nullopt);
  const CompressorPtr fixed = parse_compressor("UniformStep(step=1)"), c = parse_compressor("UniformStep(bits=1)");
  for (const size_t n : {1, 2, 3, 10, 1000, 70'000}) {
    const double alpha = c->class_of(n).alpha.value();
    double attained = 0;
    for (const double largest : {0x1.24924Ap-1, 1.0, 1.5}) {  // 4/7 of the step, and more
      Vector x(DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) x.set(i, i == n / 2 ? largest : i % 2 ? 0.4999999 : -0.4999999);
      const double lost = loss(x, decoded(encoded(*fixed, x), DType::kFloat32, n));
      EXPECT_LE(lost, 1 - alpha + 1e-6);
      attained = std::max(attained, lost);
    }
    EXPECT_NEAR(attained, 1 - alpha, 1e-6) << n;
    for (const double bits : {0.01, 0.2, 1.0, 4.0}) {
      const UniformStep some({.bits = bits, .step = {}, .stochastic = {}});
      for (const Kind kind : {Kind::kGauss, Kind::kHeavy, Kind::kLayers}) {
        const Vector x = data(kind, n, n);
        EXPECT_LE(loss(x, decoded(encoded(some, x), DType::kFloat32, n)), 1 - alpha + 1e-6) << n << ' ' << bits;
      }
    }
  }
}

TEST(UniformStep, IsUnbiasedWithinItsVariance) {
  const CompressorPtr unbiased = parse_compressor("UniformStep(bits=0.01)")->as_unbiased();
  for (const size_t n : {1, 3, 4, 64, 1000}) {
    const double omega = unbiased->class_of(n).omega.value();
    // The worst input: one element at 1/16 of the step, the others where N |x| is largest for |x|^2.
    Vector x(DType::kFloat32, n);
    for (size_t i = 0; i < n; ++i) x.set(i, i == 0 ? 1 : 1 / (1 + std::sqrt(double(n))));
    const CompressorPtr c = parse_compressor("UniformStep(step=16, rounding='stochastic')");
    const uint64_t draws = 400'000 / n + 2000;
    std::vector<double> sum(n);
    double error = 0, norm = 0;
    for (uint64_t draw = 0; draw < draws; ++draw) {
      const Vector m = decoded(encoded(*c, x, {philox_key({.seed = draw}), 0}), DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) {
        sum[i] += m[i];
        error += (m[i] - x[i]) * (m[i] - x[i]);
      }
    }
    for (size_t i = 0; i < n; ++i) {
      norm += x[i] * x[i];
      EXPECT_NEAR(sum[i] / double(draws), x[i], 5 * 16 * std::sqrt(x[i] / 16 / double(draws)) + 0x1p-12) << i;
    }
    EXPECT_NEAR(error / double(draws) / norm, omega, 0.06 * omega) << n;
  }
  const Vector x = data(Kind::kHeavy, 20'000, 3);
  EXPECT_LE(loss(x, decoded(encoded(*unbiased, x), DType::kFloat32, 20'000)), unbiased->class_of(20'000).omega.value());
}

double entropy_bits(const Vector& m, double step) {
  std::vector<double> counts(65536);
  for (size_t i = 0; i < m.size(); ++i) ++counts[static_cast<size_t>(std::lround(m[i] / step) + 32768)];
  double bits = 0;
  for (const double c : counts)
    if (c > 0) bits += c * std::log2(double(m.size()) / c);
  return bits;
}

TEST(UniformStep, MeetsTheWantedRateNearTheEntropy) {
  for (const size_t n : {16'384, 20'000, 65'536, 70'001, 300'000, 1'000'000}) {
    for (const double bits : {3.0, 2.0, 1.0, 0.5, 0.2}) {
      for (const Kind kind : {Kind::kGauss, Kind::kLaplace, Kind::kHeavy, Kind::kLayers}) {
        for (const bool stochastic : {false, true}) {
          const UniformStep c({.bits = bits, .step = {}, .stochastic = stochastic});
          const Vector x = data(kind, n, n + static_cast<uint64_t>(bits * 10));
          const Octets out = encoded(c, x);
          const double rate = 8.0 * double(out.size()) / double(n);
          EXPECT_NEAR(rate / bits, 1.0, 0.1) << n << ' ' << bits << ' ' << int(kind) << ' ' << stochastic;
          if (n < 300'000 || stochastic) continue;
          const double order0 = entropy_bits(decoded(out, DType::kFloat32, n), load<float>(out.data()));
          EXPECT_LE(8.0 * double(out.size()), (bits > 2 ? 1.06 : 1.03) * order0)
              << n << ' ' << bits << ' ' << int(kind);
        }
      }
    }
  }
}

TEST(UniformStep, ListensToTheController) {
  const UniformStep c({.bits = 1.0, .step = {}, .stochastic = false});
  const Vector x = data(Kind::kLaplace, 200'000, 8);
  for (const double factor : {0.5, 1.0, 2.0}) {
    EncodeKey key;
    key.rate = factor;
    EXPECT_NEAR(8.0 * double(encoded(c, x, key).size()) / 200'000, factor, 0.1 * factor);
  }
}

TEST(UniformStep, TakesEveryLengthAndStaysBelowItsMaximum) {
  for (size_t n = 1; n <= 5000; n += n < 300 ? 1 : 97) {
    for (const double bits : {0.1, 1.0, 12.0}) {
      const UniformStep c({.bits = bits, .step = {}, .stochastic = n % 2 == 0});
      const Vector x = data(n % 3 ? Kind::kHeavy : Kind::kGauss, n, n);
      const Octets out = encoded(c, x);
      const Vector m = decoded(out, DType::kFloat32, n);
      if (n % 2 != 0) {
        EXPECT_LT(loss(x, m), 1.0) << n;
      }
      if (bits == 1.0) {
        EXPECT_LE(8.0 * double(out.size()), 1.1 * std::max(double(n), 256 + 0.5 * double(n)) + 100) << n;
      }
    }
  }
}

/// All symbols alike often, escapes next to small ones: about the largest payload there is.
TEST(UniformStep, NoInputExceedsTheMaximum) {
  double largest = 0;
  for (const size_t n : {1, 5, 100, 8191, 8192, 65'536, 65'541}) {
    for (int escapes = 0; escapes <= 16; ++escapes) {
      std::mt19937_64 random(n + static_cast<size_t>(escapes));
      Vector x(DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) {
        const int level = 1 + static_cast<int>(random() % 15);
        const bool escape = static_cast<int>(random() % 16) < escapes, zero = random() % (escapes % 4 ? 8 : 64) == 0;
        x.set(i, zero ? 0 : (escape ? 1000 : level) * (random() % 2 ? 1 : -1));
      }
      const UniformStep c({.bits = {}, .step = 1.0, .stochastic = false});
      Octets out(c.max_bytes(n, DType::kFloat32) + 64, 0xA5);
      const auto sent = c.encode(x.view(), {}, MutableBytes(out).first(out.size() - 64));
      ASSERT_LE(sent.bytes, out.size() - 64) << n;
      for (size_t i = out.size() - 64; i < out.size(); ++i) ASSERT_EQ(out[i], 0xA5);
      largest = std::max(largest, double(sent.bytes) / double(c.max_bytes(n, DType::kFloat32)));
      EXPECT_TRUE(decoded(Bytes(out).first(sent.bytes), DType::kFloat32, n) == x) << n;
    }
  }
  EXPECT_GT(largest, 0.7);
}

TEST(UniformStep, SmallSectionsAreNotDrownedInTables) {
  const UniformStep c({.bits = 1.0, .step = {}, .stochastic = false});
  for (const Kind kind : {Kind::kGauss, Kind::kLaplace}) {
    const Vector x = data(kind, 2048, 4);
    const Octets out = encoded(c, x);
    EXPECT_LE(out.size(), 256u * 11 / 10);
    EXPECT_GE(out.size(), 256u * 8 / 10);
  }
}

class UniformForms : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, UniformForms, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(UniformForms, FusedFormsAreTheComposedOnes) {
  const DType dtype = GetParam(), state = state_dtype(dtype);
  const auto round = [&](double v) {
    return state == DType::kFloat64 ? v : static_cast<double>(static_cast<float>(v));
  };
  for (const size_t n : {0, 1, 3, 255, 5000, 70'003}) {
    const EncodeKey key{philox_key({.seed = n}), 512};
    const Vector x = test::random_vector(dtype, n, 1), s = test::random_vector(state, n, 2);
    for (const char* spec : {"UniformStep(bits=2)", "UniformStep(step=0.1, rounding='stochastic')"}) {
      const CompressorPtr c = parse_compressor(spec);
      for (const bool residual : {true, false}) {
        Vector input(state, n), next(s), expected(state, n);
        for (size_t i = 0; i < n; ++i) input.set(i, round(residual ? s[i] + x[i] : x[i] - s[i]));
        Octets fused(c->max_bytes(n, dtype));
        const auto sent = residual ? c->encode_residual(x.view(), next.view(), key, fused)
                                   : c->encode_shifted(x.view(), next.view(), key, fused);
        fused.resize(sent.bytes);
        ASSERT_TRUE(sent.finite);
        ASSERT_EQ(fused, encoded(*c, input, key)) << n;
        const Vector m = decoded(fused, state, n);
        for (size_t i = 0; i < n; ++i) expected.set(i, round(residual ? input[i] - m[i] : s[i] + m[i]));
        ASSERT_EQ(test::max_difference(next.view(), expected.view()), 0.0) << n;
      }
    }
  }
}

TEST_P(UniformForms, SlicesAtTheGranularityGiveTheValuesOfTheWhole) {
  const size_t n = 1500;
  const Vector x = test::random_vector(GetParam(), n, 9);
  const PhiloxKey key = philox_key({.seed = 1});
  const CompressorPtr c = parse_compressor("UniformStep(step=0.1, rounding='stochastic')");
  const Vector whole = decoded(encoded(*c, x, {key, 0}), DType::kFloat64, n);
  for (size_t begin = 0; begin < n; begin += 512) {
    const size_t count = std::min<size_t>(n - begin, 512);
    const Vector part =
        decoded(encoded(*c, Vector(ConstView(x.view()).slice(begin, count)), {key, begin}), DType::kFloat64, count);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(part[i], whole[begin + i]);
  }
}

/// message + residual = input + old residual, to one rounding.
TEST_P(UniformForms, KeepsWhatItDoesNotSend) {
  const DType dtype = GetParam(), state = state_dtype(dtype);
  const size_t n = 777;
  const UniformStep c({.bits = 1.0, .step = {}, .stochastic = false});
  const Vector e(state, n);
  for (uint64_t step = 0; step < 20; ++step) {
    const Vector x = test::random_vector(dtype, n, step), before = e;
    Octets out(c.max_bytes(n, dtype));
    out.resize(c.encode_residual(x.view(), e.view(), {philox_key({.step = step}), 0}, out).bytes);
    const Vector m = decoded(out, state, n);
    for (size_t i = 0; i < n; ++i) {
      const double owed = before[i] + x[i];
      ASSERT_NEAR(m[i] + e[i], owed, test::epsilon(state) * 2 * std::max(std::abs(owed), std::abs(m[i]))) << i;
    }
  }
}

TEST_P(UniformForms, MeanAddsInOrderAndDividesOnce) {
  const DType dtype = GetParam(), state = state_dtype(dtype);
  const size_t n = 66'000;
  const UniformStep c({.bits = 1.5, .step = {}, .stochastic = false});
  std::vector<Octets> payloads;
  for (uint64_t m = 0; m < 3; ++m) payloads.push_back(encoded(c, test::random_vector(dtype, n, m)));
  for (const size_t count : {0, 1, 2, 3}) {
    const std::vector<Bytes> in(payloads.begin(), payloads.begin() + static_cast<ptrdiff_t>(count));
    const Vector mean(dtype, n), sum(state, n);
    Vector expected(dtype, n);
    for (const Bytes& payload : in) c.decode_add(payload, dtype, 1.0, sum.view());
    for (size_t i = 0; i < n; ++i) {
      double v = sum[i];
      if (count > 1) v = state == DType::kFloat64 ? v / double(count) : double(float(v) / float(count));
      expected.set(i, v);
    }
    c.decode_mean(in, mean.view());
    EXPECT_EQ(test::max_difference(mean.view(), expected.view()), 0.0) << count;
  }
}

}  // namespace
}  // namespace tsq
