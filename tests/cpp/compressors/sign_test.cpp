// Sign: its constant and identity, what it sends for hard input, what it rejects. Forms, slices and lengths, which it
// shares with the quantizer: quantizer_test.cpp; SIMD: kernels/quantizer_simd_test.cpp.
#include "compressors/sign.h"

#include <gtest/gtest.h>

#include <bit>

#include "compressors/error_feedback.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

Vector decoded(const Compressor& c, Bytes payload, DType as, size_t n) {
  const Vector out(as, n);
  c.decode_add(payload, as, 1.0, out.view());
  return out;
}

std::vector<uint8_t> encoded(const Compressor& c, const Vector& x, bool finite = true) {
  std::vector<uint8_t> out(c.max_bytes(x.size(), x.view().dtype));
  const auto sent = c.encode(x.view(), {}, out);
  EXPECT_EQ(sent.finite, finite);
  EXPECT_EQ(sent.bytes, out.size());
  EXPECT_NO_THROW(c.validate(out, x.size(), x.view().dtype));
  return out;
}

TEST(Sign, HasItsClassFormatAndSpec) {
  const Sign sign;
  for (const auto& [n, block] : {std::pair<size_t, double>{0, 1}, {1, 1}, {31, 31}, {256, 256}, {100'000, 256}}) {
    EXPECT_FALSE(sign.class_of(n).omega);
    EXPECT_EQ(*sign.class_of(n).alpha, 1.0 / block);
  }
  EXPECT_EQ(*Sign(32).class_of(1000).alpha, 1.0 / 32);
  EXPECT_TRUE(sign.format() == (wire::Format{wire::Codec::kSign, 1, wire::Levels::kUnbiased, 256}));
  EXPECT_EQ(sign.spec(), "Sign()");
  EXPECT_EQ(sign.as_contractive()->spec(), "Sign()");
  EXPECT_EQ(Sign(64).as_unbiased()->spec(), "Sign(block=64)");
  EXPECT_EQ(parse_compressor("Sign(512)")->spec(), "Sign(block=512)");
  EXPECT_EQ(decoder_for(Sign(64).format())->spec(), "Sign(block=64)");
  EXPECT_EQ(sign.max_bytes(600, DType::kFloat16), 3u * 4 + 3 * 32);
  for (const uint32_t block : {0u, 16u, 48u, 8192u}) EXPECT_THROW(Sign{block}, ArgumentError);
  EXPECT_THROW(parse_compressor("Sign(block=48)"), SpecError);
  EXPECT_THROW(parse_compressor("Sign(bits=1)"), SpecError);
}

// |C - x|^2 = |x|^2 - |x|_1^2 / B, block by block, to rounding: random, one-hot (attains 1/B), flat (no error).
TEST(Sign, ErrorIsTheIdentityOfItsClass) {
  for (const uint32_t block : {32u, 256u, 1024u}) {
    const Sign sign(block);
    for (const size_t n : {size_t{1}, size_t{33}, size_t{257}, size_t{5000}}) {
      for (int kind = 0; kind < 5; ++kind) {
        Vector x = test::random_vector(DType::kFloat32, n, static_cast<uint64_t>(kind));
        for (size_t i = 0; kind >= 3 && i < n; ++i) x.set(i, kind == 3 ? (i % block == 7 ? -2.5 : 0.0) : 0.375);
        const Vector m = decoded(sign, encoded(sign, x), DType::kFloat32, n);
        for (size_t begin = 0; begin < n; begin += block) {
          const size_t end = std::min<size_t>(n, begin + block);
          double one = 0, two = 0, error = 0;
          for (size_t i = begin; i < end; ++i) {
            one += std::abs(x[i]);
            two += x[i] * x[i];
            error += (m[i] - x[i]) * (m[i] - x[i]);
          }
          const auto count = static_cast<double>(end - begin);
          EXPECT_NEAR(error, two - one * one / count, 2e-6 * two) << block << ' ' << n << ' ' << kind;
          EXPECT_LE(error, (1 - *sign.class_of(end - begin).alpha) * two * (1 + 2e-6) + 1e-12 * two);
          for (size_t i = begin; i < end && two > 0; ++i) ASSERT_EQ(m[i] > 0, x[i] >= 0) << i;  // zero counts as +
        }
      }
    }
  }
}

TEST(Sign, ZeroTinyHugeAndNonFiniteBlocks) {
  const Sign sign(32);
  const size_t n = 256;
  const auto block = [](Vector& x, size_t j, double v) {
    for (size_t i = 32 * j; i < 32 * j + 32; ++i) x.set(i, i % 2 ? -v : v);
  };
  Vector x(DType::kFloat32, n);
  const double values[] = {0.0, 0x1p-149, 0x1.FFp-119, 0x1p-118, 0x1p96, 0x1p120, 0x1.FFFFFEp127, 1.0};
  for (size_t j = 0; j < 8; ++j) block(x, j, values[j]);
  x.set(7 * 32, -0.0);
  std::vector<uint8_t> payload = encoded(sign, x);
  for (const size_t j : {0, 1, 2}) EXPECT_EQ(load<uint32_t>(payload.data() + 4 * j), 0u);  // empty
  EXPECT_EQ(load<float>(payload.data() + 12), 0x1p-118f);
  EXPECT_EQ(load<float>(payload.data() + 16), 0x1p96f);
  EXPECT_EQ(load<float>(payload.data() + 20), 0x1p120f);
  EXPECT_EQ(load<float>(payload.data() + 24), 0x1.FFFFFp127f);  // the cap
  EXPECT_GT(decoded(sign, payload, DType::kFloat32, n)[7 * 32], 0.0);
  for (const double bad : {double(INFINITY), double(NAN)}) {
    Vector y(x), e(DType::kFloat32, n);
    y.set(100, bad);  // block 3
    for (size_t i = 0; i < n; ++i) e.set(i, 0.5);
    std::vector<uint8_t> out(sign.max_bytes(n, DType::kFloat32));
    EXPECT_FALSE(sign.encode_residual(y.view(), e.view(), {}, out).finite);
    EXPECT_EQ(load<uint32_t>(out.data() + 12), 0u);
    EXPECT_NO_THROW(sign.validate(out, n, DType::kFloat32));
    for (size_t i = 96; i < 128; ++i) EXPECT_EQ(e[i], 0.5);
    EXPECT_EQ(e[0], 0.0);  // 0.5 everywhere in its block: sent exactly
  }
}

// Conservation: messages + residual = inputs.
TEST(Sign, KeepsWhatItDoesNotSend) {
  for (const DType dtype : test::kAllDTypes) {
    const auto [given, accounted, largest] = test::balance_of_error_feedback(Sign(), dtype);
    for (size_t i = 0; i < given.size(); ++i) ASSERT_NEAR(accounted[i], given[i], 2e-5) << i;
  }
}

TEST(Sign, RejectsIllegalPayloads) {
  const Sign sign(32);
  for (const size_t n : {size_t{40}, size_t{300}}) {
    const size_t scales = 4 * (n < 256 ? (n + 31) / 32 : 8);
    const std::vector<uint8_t> good = encoded(sign, test::random_vector(DType::kFloat32, n, 1));
    const auto rejects = [&](size_t at, uint32_t value, bool whole) {
      std::vector<uint8_t> bad = good;
      if (whole)
        store<uint32_t>(bad.data() + at, value);
      else
        bad[at] = static_cast<uint8_t>(value);
      EXPECT_THROW(sign.validate(bad, n, DType::kFloat32), WireError) << at << ' ' << value;
    };
    for (const uint32_t scale : {0x7F800000u, 0x7FC00000u, 0xBF800000u, 0x80000000u, 0xFF800000u, 0u})
      rejects(0, scale, true);                       // the last: codes in an empty block
    if (n == 40) rejects(scales + 31, 0x03, false);  // lane 31 has one row
    EXPECT_THROW(sign.validate(Bytes(good).first(good.size() - 1), n, DType::kFloat32), WireError);
    EXPECT_THROW(sign.validate(good, n + 256, DType::kFloat32), WireError);
    EXPECT_THROW(sign.validate(good, UINT64_MAX, DType::kFloat32), WireError);
  }
}

}  // namespace
}  // namespace tsq
