// What every compressor of codecs 6, 7 and 8 owes: forms, state, faults, means, hostile bytes, one result on every
// target. Classes: sparse_class_test.cpp; index sets: subset_test.cpp.
#include "compressors/message.h"
#include "compressors/registry.h"
#include "compressors/topk_inputs.h"

namespace tsq {
namespace {

using test::decoded;
using test::encoded;
using test::Octets;
using test::Vector;

const std::vector<std::string>& specs() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> out = {"SparseSign(k=9)",
                                    "SparseSign(ratio=0.3)",
                                    "RandK(ratio=0.8)",
                                    "RandK(ratio=0.1, shared=True)",
                                    "Bernoulli(p=1.0)",
                                    "Bernoulli(p=1e-05)",
                                    "StochasticSparsifier(budget=3)"};
    for (const char* values : {"", ", value_dtype='fp32'", ", value_dtype='fp16'", ", value_dtype='bf16'",
                               ", value_dtype=Quantizer(bits=4, block=32)", ", value_dtype=Quantizer(bits=2)"})
      for (const char* front :
           {"TopK(ratio=0.1", "RandK(ratio=0.1", "Bernoulli(p=0.2", "StochasticSparsifier(budget=0.1"})
        out.push_back(std::string(front) + values + ")");
    for (const char* values : {"", "value_dtype='bf16'", "value_dtype=Quantizer(bits=3, block=32)"})
      out.push_back(concat("PermK(", values, ")"));
    return out;
  }();
  return all;
}

/// As Direct and as error feedback use them.
std::vector<CompressorPtr> family() {
  std::vector<CompressorPtr> out;
  for (const std::string& spec : specs()) {
    out.push_back(parse_compressor(spec)->as_unbiased());
    out.push_back(parse_compressor(spec)->as_contractive());
  }
  return out;
}

EncodeKey key_of(uint64_t step, uint32_t rank = 1, uint32_t world = 3) {
  return encode_key({.seed = 5, .step = step, .rank = rank}, 0, world);
}

class SparseFamily : public testing::TestWithParam<DType> {
 protected:
  const DType dtype = GetParam(), state = state_dtype(GetParam());
};
INSTANTIATE_TEST_SUITE_P(All, SparseFamily, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(SparseFamily, FormsSendTheSumAndKeepTheRest) {
  for (const CompressorPtr& c : family()) {
    for (const size_t n : {0, 1, 2, 300, 1001}) {
      const Vector x = test::random_vector(dtype, n, n), before = test::random_vector(state, n, n + 1);
      for (const bool residual : {true, false}) {
        Vector sum(state, n), after(before), m(state, n);
        for (size_t i = 0; i < n; ++i) sum.set(i, residual ? before[i] + x[i] : x[i] - before[i]);
        Octets out(c->max_bytes(n, dtype), 0xAA);
        const auto sent = residual ? c->encode_residual(x.view(), after.view(), key_of(n), out)
                                   : c->encode_shifted(x.view(), after.view(), key_of(n), out);
        ASSERT_TRUE(sent.finite);
        ASSERT_LE(sent.bytes, out.size()) << c->spec();
        if (c->has_fixed_size()) {
          ASSERT_EQ(sent.bytes, out.size());
        }
        out.resize(sent.bytes);
        ASSERT_NO_THROW(c->validate(out, n, dtype));
        ASSERT_NO_THROW(decoder_for(c->format())->validate(out, n, dtype));
        if (state == dtype) {
          ASSERT_EQ(out, encoded(*c, sum, key_of(n))) << c->spec();
        }
        c->decode_add(out, dtype, 1.0, m.view());
        for (size_t i = 0; i < n; ++i) {
          Vector expected(state, 1);
          expected.set(0, residual ? sum[i] - m[i] : before[i] + m[i]);
          ASSERT_EQ(after[i], expected[0]) << c->spec() << " at " << i;
        }
      }
    }
  }
}

TEST_P(SparseFamily, NonFiniteInputIsNotSentAndLeavesTheState) {
  for (const CompressorPtr& c : family()) {
    for (const double bad : {INFINITY, -INFINITY, NAN}) {
      const size_t n = 500;
      Vector x = test::random_vector(dtype, n, 3);
      x.set(499, bad);
      const Vector before = test::random_vector(state, n, 4);
      for (const int form : {0, 1, 2}) {
        Vector after(before);
        Octets out(c->max_bytes(n, dtype), 0xAA);
        const auto sent = form == 0   ? c->encode(x.view(), key_of(1), out)
                          : form == 1 ? c->encode_residual(x.view(), after.view(), key_of(1), out)
                                      : c->encode_shifted(x.view(), after.view(), key_of(1), out);
        out.resize(sent.bytes);
        ASSERT_FALSE(sent.finite);
        ASSERT_EQ(out, Octets(c->zero_bytes(n, dtype))) << c->spec();
        const bool to_rounding = form == 1 && (c->spec().starts_with("TopK") || c->spec().starts_with("SparseSign"));
        ASSERT_LE(test::max_difference(after.view(), before.view()), to_rounding ? 64 * test::epsilon(state) : 0.0);
      }
    }
  }
}

TEST_P(SparseFamily, ZerosAreZeros) {
  for (const CompressorPtr& c : family()) {
    for (const size_t n : {0, 1, 700, 16385}) {
      const Octets zeros(c->zero_bytes(n, dtype));
      ASSERT_LE(zeros.size(), c->max_bytes(n, dtype));
      ASSERT_NO_THROW(c->validate(zeros, n, dtype)) << c->spec();
      EXPECT_EQ(test::max_abs(decoded(*c, zeros, dtype, n).view()), 0);
      EXPECT_EQ(test::max_abs(decoded(*c, encoded(*c, Vector(dtype, n), key_of(n)), dtype, n).view()), 0) << c->spec();
    }
  }
}

TEST_P(SparseFamily, AveragesInTheGivenOrderWithOneDivision) {
  const size_t n = 1500;
  for (const CompressorPtr& c : family()) {
    for (const uint32_t world : {1, 3}) {
      std::vector<Octets> payloads;
      Vector sum(state, n), expected(dtype, n);
      for (uint32_t r = 0; r < world; ++r) {
        payloads.push_back(encoded(*c, test::random_vector(dtype, n, r), key_of(1, r, world)));
        c->decode_add(payloads.back(), dtype, 1.0, sum.view());
      }
      for (size_t i = 0; i < n; ++i)
        expected.set(
            i, state == DType::kFloat64 ? sum[i] / world : static_cast<float>(sum[i]) / static_cast<float>(world));
      const Vector out(dtype, n);
      const std::vector<Bytes> in(payloads.begin(), payloads.end());
      c->decode_mean(in, out.view());
      ASSERT_EQ(test::max_difference(out.view(), expected.view()), 0.0) << c->spec();
      Vector scaled(DType::kFloat64, n), once(DType::kFloat64, n);
      c->decode_add(payloads[0], dtype, 1.0, once.view());
      c->decode_add(payloads[0], dtype, -0.5, scaled.view());
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(scaled[i], -0.5 * once[i]);
    }
  }
}

TEST_P(SparseFamily, NoHostilePayloadGetsThrough) {
  std::mt19937_64 random(11);
  for (const CompressorPtr& c : family()) {
    const CompressorPtr any = decoder_for(c->format());
    size_t accepted = 0;
    for (int trial = 0; trial < 400; ++trial) {
      const size_t n = std::array<size_t, 4>{1, 60, 400, 16400}[trial % 40 ? random() % 3 : 3];
      Octets bytes(random() % 100);
      if (trial % 2) {
        bytes = encoded(*c, test::random_vector(dtype, n, static_cast<uint64_t>(trial % 16)), key_of(1));
        for (size_t flips = 1 + random() % 3; flips > 0 && !bytes.empty(); --flips)
          bytes[random() % bytes.size()] ^= static_cast<uint8_t>(1u << random() % 8);
        if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 2));
      } else {
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % 3 ? 0 : random());
      }
      bytes.shrink_to_fit();
      try {
        any->validate(bytes, n, dtype);
        ++accepted;
        const Vector y = decoded(*any, bytes, dtype, n);
        for (size_t i = 0; i < n; ++i) ASSERT_TRUE(std::isfinite(y[i])) << c->spec();
      } catch (const WireError& e) {
        ASSERT_TRUE(test::contains(e.what(), "expected ") && test::contains(e.what(), "found ")) << e.what();
      }
    }
    EXPECT_GT(accepted, 2u) << c->spec();
    EXPECT_LT(accepted, 350u) << c->spec();
    for (const uint64_t hostile : {uint64_t{1} << 32, uint64_t{1} << 60, UINT64_MAX})
      EXPECT_THROW(any->validate(encoded(*c, test::random_vector(dtype, 100, 1), key_of(1)), hostile, dtype),
                   WireError);
  }
}

TEST_P(SparseFamily, SameBytesOnEveryTarget) {
  size_t count = 0;
  const char* const* targets = kernels::simd_targets(&count);
  for (const CompressorPtr& c : family()) {
    const size_t n = 2100;
    const Vector x = test::random_vector(dtype, n, 1);
    const Octets expected = encoded(*c, x, key_of(2));
    const Vector values = decoded(*c, expected, dtype, n);
    for (size_t t = 0; t < count; ++t) {
      ASSERT_TRUE(kernels::force_simd_target(targets[t]));
      EXPECT_EQ(encoded(*c, x, key_of(2)), expected) << targets[t] << " " << c->spec();
      EXPECT_EQ(decoded(*c, expected, dtype, n), values);
    }
    kernels::force_simd_target(nullptr);
  }
}

TEST_P(SparseFamily, MarkedMessagesDecodeToNan) {
  Vector x = test::random_vector(dtype, 3000, 1);
  x.set(7, NAN);
  for (const CompressorPtr& c : family()) {
    Octets out(max_message_bytes(*c, 3000, dtype));
    out.resize(encode_message(*c, x.view(), 0, 0, 2, out, 3));
    uint64_t numel = 0;
    const wire::Message message = check_message(out, &numel);
    const Vector y(dtype, numel);
    decode_message(message, y.view());
    EXPECT_TRUE(test::all_nan(y.view()));
  }
}

TEST(SparseWire, FieldsOfTheFormatAreChecked) {
  const Vector x = test::random_vector(DType::kFloat32, 50, 1);
  const auto error = [&](const char* spec, size_t at, uint8_t value) {
    const CompressorPtr c = parse_compressor(spec);
    Octets out(max_message_bytes(*c, 50, DType::kFloat32));
    out.resize(encode_message(*c, x.view(), 0, 0, 0, out));
    out[at < out.size() ? at : out.size() - 1] = value;
    uint64_t numel = 0;
    return test::error_of<WireError>([&] { check_message(out, &numel); });
  };
  constexpr size_t kBits = wire::kHeaderBytes + 2, kVariant = kBits + 1, kBlock = kVariant + 1, kLast = SIZE_MAX;
  for (const uint8_t variant : {8, 16, 24, 255}) {
    EXPECT_TRUE(test::contains(error("TopK(k=3)", kVariant, variant), "variant: expected")) << int{variant};
    if (variant != 8) {
      EXPECT_TRUE(test::contains(error("RandK(k=3)", kVariant, variant), "variant: expected")) << int{variant};
    }
  }
  EXPECT_TRUE(test::contains(error("SparseSign(k=3)", kVariant, 1), "variant: expected"));
  EXPECT_TRUE(test::contains(error("TopK(k=3)", kVariant, 4), "bits: expected 1 to 8"));
  EXPECT_TRUE(test::contains(error("TopK(k=3)", kBits, 4), "bits: expected 0 to 0"));
  EXPECT_TRUE(test::contains(error("PermK()", kBlock, 32), "block: expected 0"));
  EXPECT_TRUE(test::contains(error("PermK(value_dtype=Quantizer(bits=4))", kBlock, 3), "block: expected a power"));
  EXPECT_TRUE(test::contains(error("SparseSign(k=3)", kLast, 8), "zeros behind the signs"));
}

TEST(SparseValues, Saturate) {
  for (const char* spec :
       {"RandK(k=1, value_dtype='fp16')", "TopK(k=1, value_dtype='fp16')", "PermK(value_dtype='fp16')"}) {
    const CompressorPtr c = parse_compressor(spec)->as_contractive();
    for (const double v : {70000.0, -1e30, 65519.0, 65520.0}) {
      Vector x(DType::kFloat32, 1), e(DType::kFloat32, 1);
      x.set(0, v);
      Octets out(c->max_bytes(1, DType::kFloat32));
      out.resize(c->encode_residual(x.view(), e.view(), key_of(1, 0, 1), out).bytes);
      ASSERT_NO_THROW(c->validate(out, 1, DType::kFloat32));
      EXPECT_EQ(decoded(*c, out, DType::kFloat32, 1)[0], std::copysign(65504.0, v)) << spec;
      EXPECT_EQ(e[0], static_cast<float>(static_cast<float>(v) - std::copysign(65504.0, v)));
    }
  }
  Vector x(DType::kFloat64, 4);
  for (size_t i = 0; i < 4; ++i) x.set(i, i % 2 ? 1e300 : -1e308);
  for (const char* spec : {"TopK(ratio=1.0, value_dtype='fp32')", "TopK(ratio=1.0, value_dtype=Quantizer(bits=4))",
                           "RandK(k=1)", "StochasticSparsifier(budget=1)", "SparseSign(k=1)"}) {
    const CompressorPtr c = parse_compressor(spec)->as_unbiased();
    Octets out(c->max_bytes(4, DType::kFloat64));
    const auto sent = c->encode(x.view(), key_of(1), out);
    out.resize(sent.bytes);
    ASSERT_NO_THROW(c->validate(out, 4, DType::kFloat64)) << spec;
    EXPECT_EQ(sent.finite, !test::contains(spec, "Stochastic"));
    for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isfinite(decoded(*c, out, DType::kFloat64, 4)[i])) << spec;
  }
}

// The draw of an element does not depend on where the slice begins.
TEST(SparseSampling, SlicesOfBernoulliAreTheWhole) {
  const size_t n = 3000;
  const CompressorPtr c = parse_compressor("Bernoulli(p=0.3)");
  const Vector x = test::random_vector(DType::kFloat32, n, 1);
  const Vector whole = decoded(*c, encoded(*c, x, key_of(1)), DType::kFloat32, n);
  for (const size_t begin : {1, 255, 256, 1000}) {
    EncodeKey key = key_of(1);
    key.offset = begin;
    const Vector part(ConstView(x.view()).slice(begin, n - begin));
    EXPECT_EQ(decoded(*c, encoded(*c, part, key), DType::kFloat32, n - begin),
              Vector(ConstView(whole.view()).slice(begin, n - begin)));
  }
}

}  // namespace
}  // namespace tsq
