// Runs with widths of their own: what they cost, that they are codec 1's, who gets the bits, hostile payloads.
#include "compressors/mixed_quantizer.h"

#include <gtest/gtest.h>

#include "common/parallel.h"
#include "compressors/error_feedback.h"
#include "compressors/message.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

std::vector<uint8_t> encoded(const Compressor& c, const Vector& x, const EncodeKey& key = {}) {
  std::vector<uint8_t> out(c.max_bytes(x.size(), x.view().dtype), 0xAA);
  const Compressor::Encoded sent = c.encode(x.view(), key, out);
  EXPECT_EQ(sent.bytes, out.size());
  EXPECT_TRUE(sent.finite);
  c.validate(out, x.size(), x.view().dtype);
  return out;
}

std::vector<int> widths_in(Bytes payload, size_t runs) {
  std::vector<int> out;
  for (size_t r = 0; r < runs; ++r) out.push_back((payload[r / 2] >> (r % 2 ? 4 : 0) & 15) + 1);
  return out;
}

/// Runs of 1024 whose scales are 2^exponents.
Vector runs_of_scale(const std::vector<int>& exponents, DType dtype = DType::kFloat32, size_t run = 1024) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  Vector x(dtype, exponents.size() * run);
  for (size_t i = 0; i < x.size(); ++i) x.set(i, std::ldexp(normal(random), exponents[i / run]));
  return x;
}

TEST(MixedQuantizer, IntegersAreWholeWidthsAndFloatsAverages) {
  EXPECT_EQ(parse_compressor("Quantizer(bits=2)")->format().bits, 2);
  EXPECT_EQ(parse_compressor("Quantizer(bits=2.0)")->format().bits, wire::kMixedWidths);
  for (const char* spec : {"Quantizer(bits=2.5)", "Quantizer(bits=2.0)", "Quantizer(bits=7.25, block=64, levels='fit')",
                           "Quantizer(bits=1.0, levels='unbiased', rounding='nearest', scale_dtype='bf16')"})
    EXPECT_EQ(parse_compressor(spec)->spec(), spec);
  for (const char* spec : {"Quantizer(bits=0.5)", "Quantizer(bits=8.5)", "Quantizer(bits=9)", "Quantizer(bits='2')"})
    EXPECT_TRUE(test::contains(test::error_of<SpecError>([&] { parse_compressor(spec); }),
                               "bits: expected an integer from 1 to 8, or a float (an average)"))
        << spec;
  EXPECT_TRUE(test::contains(
      test::error_of<SpecError>([] { parse_compressor("TopK(ratio=0.1, value_dtype=Quantizer(bits=2.5))"); }),
      "value_dtype: expected a Quantizer of whole bits"));
}

TEST(MixedQuantizer, MeetsTheBudgetWithALengthThatDependsOnNAlone) {
  for (const double bits : {1.0, 1.3, 2.0, 2.5, 3.99, 8.0}) {
    const MixedQuantizer c(bits, {.levels = QuantizerLevels::kFit, .stochastic = {}});
    for (const size_t n : {0u, 1u, 255u, 1023u, 1024u, 1025u, 5u * 1024u, 10240u + 300u}) {
      const size_t bytes = c.max_bytes(n, DType::kFloat32), runs = (n + 1023) / 1024;
      const double codes = static_cast<double>(bytes) - static_cast<double>((runs + 1) / 2 + 4 * ((n + 255) / 256));
      // A last tile's rows are rounded up to 32 elements and its words to bytes: at most 32 bytes per bit and 32.
      const double rounding = n % 256 ? 4 * bits + 32 : 0;
      EXPECT_LE(codes, bits * static_cast<double>(n) / 8 + rounding) << bits << " " << n;
      EXPECT_GE(codes, (bits * static_cast<double>(n / 1024) - 1) * 128) << bits << " " << n;
      for (const uint64_t seed : {1u, 2u})
        EXPECT_EQ(encoded(c, test::random_vector(DType::kFloat32, n, seed)).size(), bytes);
    }
  }
}

TEST(MixedQuantizer, RunsAreSectionsOfTheirWidth) {
  for (const DType dtype : test::kAllDTypes)
    for (const char* levels : {"fit", "unbiased"}) {
      const CompressorPtr c = parse_compressor(concat("Quantizer(bits=2.75, block=64, levels='", levels, "')"));
      const Vector x = test::random_vector(dtype, 7 * 1024 + 333, 5);
      const EncodeKey key = encode_key({.seed = 3, .step = 1, .rank = 2}, 4096, 4);
      const std::vector<uint8_t> payload = encoded(*c, x, key);
      size_t at = 4;
      for (size_t r = 0; r < 8; ++r) {
        const int width = widths_in(payload, 8)[r];
        const CompressorPtr part =
            parse_compressor(concat("Quantizer(bits=", width, ", block=64, levels='", levels, "')"));
        const ConstView slice = ConstView(x.view()).slice(r * 1024, r < 7 ? 1024 : 333);
        std::vector<uint8_t> expected(part->max_bytes(slice.numel, dtype));
        EncodeKey own = key;
        own.offset += r * 1024;
        part->encode(slice, own, expected);
        EXPECT_EQ(std::vector<uint8_t>(payload.begin() + static_cast<long>(at),
                                       payload.begin() + static_cast<long>(at + expected.size())),
                  expected)
            << levels << " run " << r;
        at += expected.size();
      }
      EXPECT_EQ(at, payload.size());
    }
}

TEST(MixedQuantizer, EnergyAndWeightsDecideWhoGetsTheBits) {
  const CompressorPtr c = parse_compressor("Quantizer(bits=3.0, levels='fit')");
  const Vector x = runs_of_scale({0, 1, -1, 2});
  const std::vector<int> plain = widths_in(encoded(*c, x), 4);
  EXPECT_LT(plain[2], plain[0]);
  EXPECT_LT(plain[0], plain[1]);
  EXPECT_LT(plain[1], plain[3]);
  const std::vector<double> weights = {1.0, 0x1p-2, 0x1p2, 0x1p-4};  // the energies made equal
  EncodeKey key;
  key.weights = weights;
  EXPECT_EQ(widths_in(encoded(*c, x, key), 4), std::vector<int>(4, 3));
}

TEST(MixedQuantizer, FewerErrorsThanOneWidthForAll) {
  const Vector x = runs_of_scale({0, 0, -4, 0, -4, 2, -6, -6});
  double left[2];
  for (const bool mixed : {false, true}) {
    const CompressorPtr c =
        parse_compressor(mixed ? "Quantizer(bits=2.0, levels='fit')" : "Quantizer(bits=2, levels='fit')");
    const Vector e(DType::kFloat32, x.size());
    std::vector<uint8_t> out(c->max_bytes(x.size(), DType::kFloat32));
    c->encode_residual(x.view(), e.view(), {}, out);
    left[mixed] = 0;
    for (size_t i = 0; i < x.size(); ++i) left[mixed] += e[i] * e[i];
  }
  EXPECT_LT(left[1], 0.25 * left[0]);
}

TEST(MixedQuantizer, HasTheConstantsOfItsNarrowestWidth) {
  const Class fit = parse_compressor("Quantizer(bits=2.5)")->as_contractive()->class_of(5000);
  EXPECT_EQ(fit.alpha, parse_compressor("Quantizer(bits=1, levels='fit')")->class_of(5000).alpha);
  EXPECT_FALSE(fit.omega);
  const Class unbiased = parse_compressor("Quantizer(bits=2.5)")->as_unbiased()->class_of(5000);
  EXPECT_EQ(unbiased.omega, parse_compressor("Quantizer(bits=2, levels='unbiased')")->class_of(5000).omega);
  const Class low = parse_compressor("Quantizer(bits=1.5)")->as_unbiased()->class_of(5000);
  EXPECT_EQ(low.omega, parse_compressor("Quantizer(bits=1, levels='unbiased')")->class_of(5000).omega);
  // and is contractive by it: also where rounding at random would not be
  for (const char* spec : {"Quantizer(bits=1.2)", "Quantizer(bits=2.5, levels='unbiased', rounding='nearest')"}) {
    const CompressorPtr c = parse_compressor(spec)->as_contractive();
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const Vector x = test::random_vector(DType::kFloat64, 4096 + 77, seed), e(DType::kFloat64, x.size());
      std::vector<uint8_t> out(c->max_bytes(x.size(), DType::kFloat64));
      c->encode_residual(x.view(), e.view(), {}, out);
      double left = 0, all = 0;
      for (size_t i = 0; i < x.size(); ++i) left += e[i] * e[i], all += x[i] * x[i];
      EXPECT_LE(left, (1 - *c->class_of(x.size()).alpha) * all) << spec;
    }
  }
}

TEST(MixedQuantizer, ConservesWhatErrorFeedbackOwes) {
  for (const DType dtype : test::kAllDTypes) {
    const auto balance =
        test::balance_of_error_feedback(*parse_compressor("Quantizer(bits=1.5)")->as_contractive(), dtype);
    for (size_t i = 0; i < balance.given.size(); ++i)
      EXPECT_NEAR(balance.given[i], balance.accounted[i], 64 * test::epsilon(state_dtype(dtype)) * balance.largest);
  }
}

TEST(MixedQuantizer, MeansOfDifferentWidthsAreSumsInRankOrder) {
  const CompressorPtr c = parse_compressor("Quantizer(bits=2.5, levels='fit')");
  for (const DType dtype : test::kAllDTypes) {
    const Vector a = runs_of_scale({0, 3, -3, 1, 0}, dtype), b = runs_of_scale({3, 0, 0, -2, 1}, dtype);
    const std::vector<uint8_t> first = encoded(*c, a), second = encoded(*c, b);
    ASSERT_NE(widths_in(first, 5), widths_in(second, 5));
    Vector mean(dtype, a.size()), expected(dtype, a.size());
    const Vector sum(state_dtype(dtype), a.size());
    const std::vector<Bytes> both = {first, second};
    c->decode_mean(both, mean.view());
    for (const Bytes& payload : both) c->decode_add(payload, dtype, 1.0, sum.view());
    for (size_t i = 0; i < a.size(); ++i) expected.set(i, sum[i] / 2);
    EXPECT_TRUE(mean == expected) << name_of(dtype);
    const std::vector<Bytes> twice = {first, first};
    c->decode_mean(twice, mean.view());
    const Vector once(state_dtype(dtype), a.size());
    c->decode_add(first, dtype, 1.0, once.view());
    EXPECT_LE(test::max_difference(mean.view(), once.view()), test::epsilon(dtype) * 2 * test::max_abs(once.view()));
  }
}

TEST(MixedQuantizer, ZerosAndVoidPayloadsDecodeToZeros) {
  const CompressorPtr c = parse_compressor("Quantizer(bits=3.5, levels='fit')");
  const Vector zeros(DType::kFloat32, 3333), out = test::random_vector(DType::kFloat32, 3333, 1);
  const std::vector<uint8_t> payload = encoded(*c, zeros), empty(c->zero_bytes(3333, DType::kFloat32));
  EXPECT_EQ(empty.size(), payload.size());
  c->validate(empty, 3333, DType::kFloat32);
  for (const std::vector<uint8_t>& p : {payload, empty}) {
    const Bytes one = p;
    c->decode_mean({&one, 1}, out.view());
    EXPECT_EQ(test::max_abs(out.view()), 0);
  }
}

TEST(MixedQuantizer, NotFiniteIsSaidAndThatRunsStateKept) {
  const CompressorPtr c = parse_compressor("Quantizer(bits=2.5)")->as_contractive();
  for (const double bad : {static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
    Vector x = test::random_vector(DType::kFloat32, 4096, 2);
    x.set(1500, bad);
    const Vector e = test::random_vector(DType::kFloat32, 4096, 3), before = e;
    std::vector<uint8_t> out(c->max_bytes(4096, DType::kFloat32));
    EXPECT_FALSE(c->encode_residual(x.view(), e.view(), {}, out).finite);
    for (size_t i = 1280; i < 1536; ++i) EXPECT_EQ(e[i], before[i]);
  }
}

TEST(MixedQuantizer, HostilePayloadsAreRefused) {
  const CompressorPtr c = parse_compressor("Quantizer(bits=2.5, levels='fit')");
  const Vector x = test::random_vector(DType::kFloat32, 3 * 1024 + 9, 4);
  const std::vector<uint8_t> good = encoded(*c, x);
  const auto error = [&](auto change, size_t n = 3 * 1024 + 9) {
    std::vector<uint8_t> bad = good;
    change(bad);
    return test::error_of<WireError>([&] { c->validate(bad, n, DType::kFloat32); });
  };
  EXPECT_EQ(error([](auto&) {}), "");
  EXPECT_TRUE(test::contains(error([](auto& p) { p[0] |= 8; }), "width"));
  EXPECT_TRUE(test::contains(error([](auto& p) { p[0] = 0x77, p[1] = 0x77; }), "bytes"));
  EXPECT_NE(error([](auto& p) { p.pop_back(); }), "");
  EXPECT_NE(error([](auto& p) { p.resize(1); }), "");
  EXPECT_NE(error([](auto& p) { p.clear(); }), "");
  EXPECT_TRUE(test::contains(error([](auto& p) { p.push_back(1); }), "zeros behind the last run"));
  EXPECT_EQ(error([](auto& p) { p.push_back(0); }), "");
  EXPECT_NE(error([](auto&) {}, size_t{1} << 62), "");
  EXPECT_NE(error([](auto&) {}, 2 * 1024), "");
  EXPECT_NE(error([](auto& p) { p[2 + 3] = 0xFF, p[2 + 2] = 0xFF; }), "");  // a scale: NaN
  const Vector two = test::random_vector(DType::kFloat32, 3 * 1024, 4);
  std::vector<uint8_t> odd = encoded(*c, two);
  odd[1] |= 0x10;  // the half of a fourth run
  EXPECT_TRUE(test::contains(test::error_of<WireError>([&] { c->validate(odd, 3 * 1024, DType::kFloat32); }), "width"));
}

TEST(MixedQuantizer, ThreadsDoNotChangeAByte) {
  const CompressorPtr c = parse_compressor("Quantizer(bits=2.5)")->as_contractive();
  const Vector x = test::random_vector(DType::kFloat32, 200 * 1024 + 77, 1);
  std::vector<std::vector<uint8_t>> payloads;
  std::vector<Vector> states, means;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    states.push_back(test::random_vector(DType::kFloat32, x.size(), 2));
    payloads.emplace_back(c->max_bytes(x.size(), DType::kFloat32));
    c->encode_residual(x.view(), states.back().view(), {}, payloads.back());
    means.emplace_back(DType::kFloat32, x.size());
    const std::vector<Bytes> both = {payloads.front(), payloads.back()};
    c->decode_mean(both, means.back().view());
    set_num_threads(1);
    EXPECT_EQ(payloads.back(), payloads.front());
    EXPECT_TRUE(states.back() == states.front() && means.back() == means.front());
  }
}

}  // namespace
}  // namespace tsq
