#include "compressors/identity.h"

#include <gtest/gtest.h>

#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

class IdentityTest : public testing::TestWithParam<DType> {
 protected:
  const DType dtype = GetParam();
  const Identity identity;
};

INSTANTIATE_TEST_SUITE_P(All, IdentityTest, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(IdentityTest, SendsTheBytesThemselves) {
  for (const size_t n : {0, 1, 255, 257}) {
    Vector x = test::random_vector(dtype, n, n);
    if (n > 2) x.set(1, NAN), x.set(2, -INFINITY);
    std::vector<uint8_t> out(identity.max_bytes(n, dtype));
    const auto sent = identity.encode(x.view(), {}, out);
    EXPECT_EQ(sent.bytes, n * size_of(dtype));
    EXPECT_TRUE(sent.finite);
    EXPECT_TRUE(std::ranges::equal(out, x.bytes()));
    EXPECT_NO_THROW(identity.validate(out, n, dtype));
  }
}

TEST_P(IdentityTest, RejectsOtherLengths) {
  const std::vector<uint8_t> bytes(10 * size_of(dtype));
  const uint64_t huge[] = {9, 11, uint64_t{1} << 60, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX / size_of(dtype) + 11};
  for (const uint64_t n : huge)
    EXPECT_TRUE(
        test::error_of<WireError>([&] { identity.validate(bytes, n, dtype); }).starts_with("bad message: bytes"))
        << n;
  EXPECT_THROW(identity.validate(Bytes(bytes).first(bytes.size() - 1), 10, dtype), WireError);
  EXPECT_THROW(identity.validate({}, UINT64_MAX, dtype), WireError);
}

TEST_P(IdentityTest, AveragesInTheGivenOrderWithOneDivision) {
  const size_t n = 100;
  std::vector<Vector> x;
  std::vector<Bytes> payloads;
  for (size_t r = 0; r < 3; ++r) x.push_back(test::random_vector(dtype, n, r));
  for (const Vector& v : x) payloads.push_back(v.bytes());
  const Vector out(dtype, n);
  identity.decode_mean(payloads, out.view());
  Vector expected(dtype, n);
  for (size_t i = 0; i < n; ++i) {
    if (dtype == DType::kFloat64)
      expected.set(i, (x[0][i] + x[1][i] + x[2][i]) / 3);
    else
      expected.set(i, (static_cast<float>(x[0][i]) + static_cast<float>(x[1][i]) + static_cast<float>(x[2][i])) / 3.0f);
  }
  EXPECT_EQ(out, expected);
  identity.decode_mean({payloads.data(), 1}, out.view());
  EXPECT_EQ(out, x[0]);
}

TEST_P(IdentityTest, AddsScaled) {
  const Vector x = test::random_vector(dtype, 50, 1);
  for (const DType acc_dtype : {DType::kFloat32, DType::kFloat64}) {
    Vector acc = test::random_vector(acc_dtype, 50, 2);
    Vector expected(acc);
    for (size_t i = 0; i < 50; ++i) {
      if (acc_dtype == DType::kFloat64)
        expected.set(i, acc[i] + -0.7 * x[i]);
      else
        expected.set(i, static_cast<float>(acc[i]) + -0.7f * static_cast<float>(x[i]));
    }
    identity.decode_add(x.bytes(), dtype, -0.7, acc.view());
    EXPECT_EQ(acc, expected);
  }
}

TEST_P(IdentityTest, FusedFormsAreTheComposedOnes) {
  const size_t n = 77;
  const DType state = state_dtype(dtype);
  const Vector x = test::random_vector(dtype, n, 3), s = test::random_vector(state, n, 4);
  Vector sum(state, n), difference(state, n);
  const auto round = [&](double v) {
    return state == DType::kFloat64 ? v : static_cast<double>(static_cast<float>(v));
  };
  for (size_t i = 0; i < n; ++i) sum.set(i, round(s[i] + x[i])), difference.set(i, round(x[i] - s[i]));

  Vector e(s), h(s), m(dtype, n);
  const MutableBytes out(m.view().as<uint8_t>(), m.bytes().size());
  EXPECT_TRUE(identity.encode_residual(x.view(), e.view(), {}, out).finite);
  for (size_t i = 0; i < n; ++i) {
    Vector one(dtype, 1);
    one.set(0, sum[i]);
    EXPECT_EQ(m[i], one[0]);
    EXPECT_EQ(e[i], sum[i] - m[i]);
  }
  EXPECT_TRUE(identity.encode_shifted(x.view(), h.view(), {}, out).finite);
  for (size_t i = 0; i < n; ++i) {
    Vector one(dtype, 1);
    one.set(0, difference[i]);
    EXPECT_EQ(m[i], one[0]);
    EXPECT_EQ(h[i], round(s[i] + m[i]));
  }
}

TEST_P(IdentityTest, KeepsTheStateOfElementsThatAreNotFinite) {
  Vector x = test::random_vector(dtype, 8, 5);
  x.set(3, INFINITY);
  x.set(6, NAN);
  Vector e = test::random_vector(state_dtype(dtype), 8, 6);
  const Vector before(e);
  std::vector<uint8_t> out(identity.max_bytes(8, dtype));
  EXPECT_FALSE(identity.encode_residual(x.view(), e.view(), {}, out).finite);
  EXPECT_EQ(e[3], before[3]);
  EXPECT_EQ(e[6], before[6]);
  EXPECT_FALSE(identity.encode_shifted(x.view(), e.view(), {}, out).finite);
  EXPECT_EQ(e[3], before[3]);
  EXPECT_EQ(e[6], before[6]);
}

TEST(Identity, KnowsItsClass) {
  const Identity identity;
  EXPECT_EQ(identity.class_of(1000).omega, 0.0);
  EXPECT_EQ(identity.class_of(1000).alpha, 1.0);
  EXPECT_EQ(identity.expected_bits(10, DType::kFloat16), 160.0);
  EXPECT_EQ(identity.granularity(), 1u);
  EXPECT_EQ(identity.as_contractive()->spec(), "Identity()");
  EXPECT_EQ(identity.as_unbiased()->spec(), "Identity()");
  EXPECT_EQ(parse_compressor("Identity()")->spec(), "Identity()");
  EXPECT_TRUE(identity.format() == wire::Format{});
}

}  // namespace
}  // namespace tsq
