// The quantizer as a compressor: class constants, resolution of open choices, fused forms, checks. Its bytes: kernels/.
#include "compressors/quantizer.h"

#include <gtest/gtest.h>

#include "compressors/registry.h"
#include "compressors/sign.h"
#include "compressors/ternary.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

CompressorPtr quantizer(int bits, uint32_t block = 256, std::optional<QuantizerLevels> levels = {},
                        std::optional<bool> stochastic = {}, bool bf16_scales = false) {
  return std::make_shared<Quantizer>(Quantizer::Config{bits, block, levels, stochastic, bf16_scales});
}

std::vector<CompressorPtr> all_kinds() {
  std::vector<CompressorPtr> out;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const uint32_t block : {32u, 256u, 1024u}) {
      out.push_back(quantizer(bits, block, QuantizerLevels::kFit));
      out.push_back(quantizer(bits, block, QuantizerLevels::kUnbiased));
      out.push_back(quantizer(bits, block, QuantizerLevels::kUnbiased, false));
    }
  }
  for (const uint32_t block : {32u, 256u, 1024u}) out.push_back(std::make_shared<Sign>(block));
  out.push_back(std::make_shared<Ternary>(64));
  out.push_back(quantizer(3, 32, QuantizerLevels::kFit, {}, true));
  out.push_back(quantizer(4, 64, QuantizerLevels::kUnbiased, {}, true));
  out.push_back(quantizer(1, 32, {}, {}, true)->as_contractive());
  out.push_back(quantizer(2, 256, QuantizerLevels::kUnbiased, {}, true)->as_contractive());  // shrunk
  out.push_back(std::make_shared<Sign>(32, true));
  out.push_back(std::make_shared<Ternary>(32, true));
  out.push_back(Ternary().as_contractive());
  out.push_back(quantizer(1)->as_contractive());
  out.push_back(quantizer(2, 256, QuantizerLevels::kUnbiased)->as_contractive());  // shrunk
  return out;
}

Vector decoded(const Compressor& c, Bytes payload, DType dtype, DType as, size_t n) {
  const Vector out(as, n);
  c.decode_add(payload, dtype, 1.0, out.view());
  return out;
}

double squared_error(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

double squared_norm(const Vector& a) { return squared_error(a, Vector(DType::kFloat64, a.size())); }

TEST(Quantizer, HasTheConstantsOfTheTable) {
  const double omega[] = {255, 7.5, 2.208, 0.745, 0.230, 0.0624, 0.0158, 0.0039};
  const double scaled[] = {1.0 / 256, 0.118, 0.312, 0.573, 0.813, 0.941, 0.984, 0.996};
  const double nearest[] = {0, 0.0154, 0.124, 0.435, 0.779, 0.938, 0.984, 0.996};
  for (int bits = 1; bits <= 8; ++bits) {
    SCOPED_TRACE(bits);
    const auto b = static_cast<size_t>(bits - 1);
    const Class plain = quantizer(bits, 256, QuantizerLevels::kUnbiased)->class_of(10'000);
    ASSERT_TRUE(plain.omega);
    EXPECT_NEAR(*plain.omega, omega[b], bits > 6 ? 6e-5 : omega[b] * 3e-3);
    EXPECT_EQ(plain.alpha.has_value(), bits >= 4);
    if (plain.alpha) {
      EXPECT_NEAR(*plain.alpha, 1 - omega[b], 1e-3);
    }
    const Class contractive = quantizer(bits, 256, QuantizerLevels::kUnbiased)->as_contractive()->class_of(10'000);
    if (bits < 4) {
      ASSERT_TRUE(contractive.alpha && !contractive.omega);
      EXPECT_NEAR(*contractive.alpha, scaled[b], 1e-3);
    } else {
      EXPECT_EQ(contractive.omega, plain.omega);  // contractive as it is: left alone
    }
    const Class fit = quantizer(bits, 256, QuantizerLevels::kFit)->class_of(10'000);
    ASSERT_TRUE(fit.alpha && !fit.omega);
    EXPECT_NEAR(*fit.alpha, bits == 1 ? 1.0 / 256 : nearest[b], 1e-3);
    if (bits > 1) {
      EXPECT_NEAR(*quantizer(bits, 256, QuantizerLevels::kUnbiased, false)->class_of(10'000).alpha, nearest[b], 1e-3);
    }
  }
}

TEST(Quantizer, ConstantsFollowTheShorterOfBlockAndVector) {
  for (const CompressorPtr& c : all_kinds()) {
    const Class one = c->class_of(1), none = c->class_of(0);
    const bool exact = !test::contains(c->spec(), "bf16");
    if (one.omega) {
      EXPECT_EQ(*one.omega == 0.0, exact) << c->spec();
    }
    if (one.alpha && one.omega) {
      EXPECT_EQ(*one.alpha == 1.0, exact) << c->spec();
    }
    EXPECT_EQ(one.omega, none.omega);
    EXPECT_EQ(c->class_of(1 << 20).alpha, c->class_of(4096).alpha);
  }
}

/// Inputs that are hard for somebody: random, one-hot, constant, one maximum and all others at `t` of the first level.
std::vector<Vector> hard_inputs(int bits, size_t n) {
  std::vector<Vector> out;
  for (uint64_t seed = 0; seed < 4; ++seed) out.push_back(test::random_vector(DType::kFloat64, n, seed));
  const double s = bits == 1 ? 0.5 : (1 << (bits - 1)) - 1;
  for (const double fraction :
       {0.0, 1 / (1 + std::sqrt(1 + static_cast<double>(n - 1) / (s * s))), 0.499, 0.501, 1.0, s}) {
    Vector x(DType::kFloat64, n);
    for (size_t i = 0; i < n; ++i) x.set(i, (i % 2 ? -1 : 1) * fraction / s);
    x.set(n / 3, 1.0);
    out.push_back(x);
  }
  return out;
}

/// The hard inputs; with 16-bit scales also times a number that puts the maximum just above a scale that could be sent.
std::vector<Vector> hard_inputs(int bits, size_t n, bool bf16_scales) {
  std::vector<Vector> out = hard_inputs(bits, n);
  if (!bf16_scales) return out;
  const double s = bits == 1 ? 1 : (1 << (bits - 1)) - 1;
  for (size_t i = 0, count = out.size(); i < count; ++i) {
    Vector x(out[i]);
    for (size_t j = 0; j < n; ++j) x.set(j, x[j] * s * (1.0 + 0x1p-20) / test::max_abs(out[i].view()));
    out.push_back(x);
  }
  return out;
}

class QuantizerClass : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Scales, QuantizerClass, testing::Bool(),
                         [](const auto& info) { return info.param ? "bf16" : "fp32"; });

TEST_P(QuantizerClass, ContractsAsItsClassSays) {
  for (int bits = 1; bits <= 8; ++bits) {
    double worst = 0;
    for (const auto levels : {QuantizerLevels::kFit, QuantizerLevels::kUnbiased}) {
      const bool nearest = levels == QuantizerLevels::kUnbiased;
      CompressorPtr c = quantizer(bits, 256, levels, nearest ? std::optional(false) : std::nullopt, GetParam());
      if (nearest && bits == 1) c = c->as_contractive();  // without it: no class
      for (const Vector& x : hard_inputs(bits, 256, GetParam())) {
        std::vector<uint8_t> out(c->max_bytes(256, DType::kFloat64));
        c->encode(x.view(), {}, out);
        const double ratio =
            squared_error(decoded(*c, out, DType::kFloat64, DType::kFloat64, 256), x) / squared_norm(x);
        EXPECT_LE(ratio, (1 - *c->class_of(256).alpha) * (1 + 1e-5) + 1e-12) << c->spec();
        if (nearest) worst = std::max(worst, ratio / (1 - *c->class_of(256).alpha));
      }
    }
    if (bits > 1) {
      EXPECT_GT(worst, 0.98) << bits;  // the constant is attained in the limit: the inputs are hard enough
    }
  }
}

TEST_P(QuantizerClass, VarianceAndShrunkErrorAreBounded) {
  constexpr int kDraws = 200;
  for (int bits = 1; bits <= 8; ++bits) {
    double worst = 0;
    const CompressorPtr plain = quantizer(bits, 256, QuantizerLevels::kUnbiased, {}, GetParam());
    const CompressorPtr contractive = plain->as_contractive();
    for (const Vector& x : hard_inputs(bits, 256, GetParam())) {
      for (const CompressorPtr& c : {plain, contractive}) {
        double error = 0;
        for (uint64_t step = 0; step < kDraws; ++step) {
          std::vector<uint8_t> out(c->max_bytes(256, DType::kFloat64));
          c->encode(x.view(), {philox_key({.step = step}), 0}, out);
          error += squared_error(decoded(*c, out, DType::kFloat64, DType::kFloat64, 256), x) / kDraws;
        }
        const Class k = c->class_of(256);
        const double bound = k.omega ? *k.omega : 1 - *k.alpha;
        EXPECT_LE(error, squared_norm(x) * (bound * 1.1 + 1e-6)) << c->spec();
        if (c == plain) worst = std::max(worst, error / squared_norm(x) / bound);
      }
    }
    EXPECT_GT(worst, 0.9) << bits;  // the exact supremum, or a bound close to it
  }
}

// What rounding the scale up costs, at block 256: little, and nothing that changes which widths are contractive.
TEST(Quantizer, Bf16ScalesCostLittle) {
  for (int bits = 1; bits <= 8; ++bits) {
    const Class wide = quantizer(bits, 256, QuantizerLevels::kUnbiased)->class_of(1000);
    const Class narrow = quantizer(bits, 256, QuantizerLevels::kUnbiased, {}, true)->class_of(1000);
    EXPECT_GT(*narrow.omega, *wide.omega) << bits;
    EXPECT_LT(*narrow.omega, *wide.omega * 1.05) << bits;
    EXPECT_EQ(narrow.alpha.has_value(), wide.alpha.has_value()) << bits;
    const double fit = *quantizer(bits, 256, QuantizerLevels::kFit)->class_of(1000).alpha;
    EXPECT_DOUBLE_EQ(*quantizer(bits, 256, QuantizerLevels::kFit, {}, true)->class_of(1000).alpha, fit * (1 - 0x1p-16));
  }
  EXPECT_EQ(*Sign(32, true).class_of(1000).alpha, (1 - 0x1p-16) / 32);
  EXPECT_GT(*Ternary(256, true).class_of(1000).omega, 7.5);
  EXPECT_LT(*Ternary(256, true).as_contractive()->class_of(256).alpha, 1 / 8.5);
}

TEST(Quantizer, Bf16ScalesAreInSpecAndFormat) {
  for (const char* spec :
       {"Quantizer(bits=4, scale_dtype='bf16')", "Quantizer(bits=2, block=32, levels='fit', scale_dtype='bf16')",
        "Sign(scale_dtype='bf16')", "Sign(block=64, scale_dtype='bf16')", "Ternary(block=32, scale_dtype='bf16')",
        "TopK(k=3, value_dtype=Quantizer(bits=4, block=32, levels='fit', scale_dtype='bf16'))"}) {
    const CompressorPtr c = parse_compressor(spec);
    EXPECT_EQ(c->spec(), spec);
    const wire::Format format = c->format();
    EXPECT_TRUE(decoder_for(format)->format() == format) << spec;
    EXPECT_TRUE(test::contains(c->as_contractive()->spec(), "bf16") &&
                test::contains(c->as_unbiased()->spec(), "bf16"));
  }
  EXPECT_EQ(parse_compressor("Quantizer(bits=4, levels='fit', scale_dtype='bf16')")->format().variant, 3);
  EXPECT_EQ(parse_compressor("Sign(scale_dtype='bf16')")->format().variant, 2);
  EXPECT_EQ(parse_compressor("Sign(scale_dtype=None)")->spec(), "Sign()");
  EXPECT_EQ(
      parse_compressor("TopK(k=3, value_dtype=Quantizer(bits=4, levels='fit', scale_dtype='bf16'))")->format().variant,
      7);
  EXPECT_THROW(parse_compressor("Quantizer(scale_dtype='fp16')"), SpecError);
  EXPECT_THROW(parse_compressor("Ternary(scale_dtype=16)"), SpecError);
}

TEST(Quantizer, ResolvesOpenChoices) {
  EXPECT_EQ(quantizer(4)->as_contractive()->spec(), "Quantizer(bits=4, levels='fit')");
  EXPECT_EQ(quantizer(4)->as_unbiased()->spec(), "Quantizer(bits=4, levels='unbiased')");
  EXPECT_EQ(quantizer(4, 256, QuantizerLevels::kFit)->as_unbiased()->spec(), "Quantizer(bits=4, levels='fit')");
  EXPECT_EQ(quantizer(4, 256, QuantizerLevels::kUnbiased)->as_contractive()->spec(),
            "Quantizer(bits=4, levels='unbiased')");
  const auto resolved =
      quantizer(2, 256, std::nullopt, true)->as_contractive();  // asked for dither: stays unbiased, shrunk
  EXPECT_EQ(resolved->format().variant, wire::Levels::kUnbiased);
  EXPECT_NEAR(dynamic_cast<const Quantizer&>(*resolved).config().shrink, 1 / 8.5, 1e-3);
  EXPECT_EQ(
      dynamic_cast<const Quantizer&>(*quantizer(1, 256, QuantizerLevels::kUnbiased)->as_contractive()).config().shrink,
      1.0f / 256);
  EXPECT_EQ(dynamic_cast<const Quantizer&>(*quantizer(4)->as_contractive()).config().shrink, 1.0f);
  EXPECT_EQ(quantizer(4, 256, QuantizerLevels::kUnbiased, false)->as_contractive()->spec(),
            "Quantizer(bits=4, levels='unbiased', rounding='nearest')");
}

TEST(Quantizer, RejectsImpossibleConfigurations) {
  for (const int bits : {-1, 0, 9, 1000}) EXPECT_THROW(quantizer(bits), ArgumentError);
  for (const uint32_t block : {0u, 1u, 16u, 33u, 100u, 8192u, UINT32_MAX})
    EXPECT_THROW(quantizer(4, block), ArgumentError);
  EXPECT_THROW(quantizer(4, 256, QuantizerLevels::kFit, true), ArgumentError);
  EXPECT_NO_THROW(quantizer(4, 256, QuantizerLevels::kFit, false));
}

TEST(Quantizer, RejectsOtherLengths) {
  for (const CompressorPtr& c : all_kinds()) {
    for (const size_t n : {0, 1, 255, 256, 257, 5000}) {
      const std::vector<uint8_t> zeros(c->max_bytes(n, DType::kFloat32) + 1);
      const Bytes whole = Bytes(zeros).first(zeros.size() - 1);
      EXPECT_NO_THROW(c->validate(whole, n, DType::kFloat32)) << c->spec();  // all zero: legal, decodes to zeros
      EXPECT_THROW(c->validate(zeros, n, DType::kFloat32), WireError);
      if (n) {
        EXPECT_THROW(c->validate(whole.first(whole.size() - 1), n, DType::kFloat32), WireError);
      }
      for (const uint64_t hostile : {uint64_t{1} << 32, uint64_t{1} << 60, uint64_t{1} << 61, uint64_t{1} << 63,
                                     UINT64_MAX, UINT64_MAX - 255, uint64_t{n} + 256})
        ASSERT_THROW(c->validate(whole, hostile, DType::kFloat32), WireError) << c->spec() << ' ' << hostile;
    }
  }
}

TEST(Quantizer, RejectsNumbersOfElementsWhoseLengthWrapsAround) {
  for (const uint32_t block : {32u, 256u}) {
    const CompressorPtr c = quantizer(8, block);
    const uint64_t stride =
        c->max_bytes(256, DType::kFloat32);  // more than 256 bytes: n < 2^64 elements may need 2^64 bytes
    const uint64_t tiles = UINT64_MAX / stride + 1;
    const std::vector<uint8_t> zeros(stride * tiles);  // mod 2^64: less than one stride
    ASSERT_LT(zeros.size(), stride);
    ASSERT_EQ(c->max_bytes(256 * tiles, DType::kFloat32), zeros.size());
    const std::string error = test::error_of<WireError>([&] { c->validate(zeros, 256 * tiles, DType::kFloat32); });
    EXPECT_TRUE(error.starts_with("bad message: bytes: ")) << error;  // by its length, before the payload is read
  }
}

class QuantizerForms : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, QuantizerForms, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(QuantizerForms, FusedFormsAreTheComposedOnes) {
  const DType dtype = GetParam(), state = state_dtype(dtype);
  const auto round = [&](double v) {
    return state == DType::kFloat64 ? v : static_cast<double>(static_cast<float>(v));
  };
  uint64_t trial = 0;
  for (const CompressorPtr& c : all_kinds()) {
    for (const size_t n : {0, 1, 255, 256, 257, 5000}) {
      const EncodeKey key{philox_key({.seed = ++trial}), trial % 3 * c->granularity()};
      const Vector x = test::random_vector(dtype, n, trial), s = test::random_vector(state, n, trial + 1000);
      for (const bool residual : {true, false}) {
        Vector input(state, n), next(s), expected(state, n);
        for (size_t i = 0; i < n; ++i) input.set(i, round(residual ? s[i] + x[i] : x[i] - s[i]));
        std::vector<uint8_t> fused(c->max_bytes(n, dtype)), composed(fused.size());
        const auto sent = residual ? c->encode_residual(x.view(), next.view(), key, fused)
                                   : c->encode_shifted(x.view(), next.view(), key, fused);
        c->encode(input.view(), key, composed);
        ASSERT_TRUE(sent.finite && sent.bytes == fused.size());
        ASSERT_EQ(fused, composed) << c->spec() << " n " << n;
        ASSERT_NO_THROW(c->validate(fused, n, dtype));
        const Vector m = decoded(*c, fused, dtype, state, n);
        for (size_t i = 0; i < n; ++i) expected.set(i, round(residual ? input[i] - m[i] : s[i] + m[i]));
        ASSERT_EQ(test::max_difference(next.view(), expected.view()), 0.0) << c->spec() << " n " << n;
      }
    }
  }
}

TEST_P(QuantizerForms, SlicesAtTheGranularityGiveTheBytesOfTheWhole) {
  const DType dtype = GetParam();
  const size_t n = 5000;
  const Vector x = test::random_vector(dtype, n, 9);
  for (const CompressorPtr& c : all_kinds()) {
    const PhiloxKey key = philox_key({.seed = 1});
    std::vector<uint8_t> whole(c->max_bytes(n, dtype)), parts;
    c->encode(x.view(), {key, 0}, whole);
    for (size_t begin = 0; begin < n; begin += 2 * c->granularity()) {
      const size_t count = std::min(n - begin, 2 * c->granularity());
      std::vector<uint8_t> part(c->max_bytes(count, dtype));
      c->encode(ConstView(x.view()).slice(begin, count), {key, begin}, part);
      parts.insert(parts.end(), part.begin(), part.end());
    }
    ASSERT_EQ(parts, whole) << c->spec();
  }
}

TEST_P(QuantizerForms, MeanIsTheSumInOrderDividedOnce) {
  const DType dtype = GetParam(), state = state_dtype(dtype);
  const CompressorPtr c = quantizer(3, 64);
  for (const size_t world : {1, 2, 3, 17}) {
    std::vector<std::vector<uint8_t>> payloads;
    Vector sum(state, 700), expected(dtype, 700);
    for (size_t r = 0; r < world; ++r) {
      payloads.emplace_back(c->max_bytes(700, dtype));
      c->encode(test::random_vector(dtype, 700, r).view(), {philox_key({.rank = uint32_t(r)}), 0}, payloads.back());
      c->decode_add(payloads.back(), dtype, 1.0, sum.view());
    }
    for (size_t i = 0; i < 700; ++i) {
      if (state == DType::kFloat64)
        expected.set(i, sum[i] / static_cast<double>(world));
      else
        expected.set(i, static_cast<float>(sum[i]) / static_cast<float>(world));
    }
    const Vector out(dtype, 700);
    const std::vector<Bytes> in(payloads.begin(), payloads.end());
    c->decode_mean(in, out.view());
    EXPECT_EQ(test::max_difference(out.view(), expected.view()), 0.0);
  }
}

}  // namespace
}  // namespace tsq
