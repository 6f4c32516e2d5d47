// TopK's payloads: not finite, zeros, means, what is rejected, its class and spec. Selection: topk_test.cpp; index
// coding: wire/indices_test.cpp.
#include "compressors/message.h"
#include "compressors/registry.h"
#include "compressors/topk_inputs.h"
#include "kernels/quantizer.h"
#include "wire/indices.h"

namespace tsq {
namespace {

using test::by_count;
using test::by_ratio;
using test::decoded;
using test::encoded;
using test::kept;
using test::Octets;
using test::Vector;

class TopKPayloadTest : public testing::TestWithParam<DType> {
 protected:
  const DType dtype = GetParam();
};
INSTANTIATE_TEST_SUITE_P(All, TopKPayloadTest, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(TopKPayloadTest, NonFiniteInputIsNotSentAndLeavesTheState) {
  const size_t n = 9000;
  for (const double bad : {INFINITY, -INFINITY, NAN}) {
    for (const size_t at : {size_t{0}, size_t{4321}, n - 1}) {
      Vector x = test::random_vector(dtype, n, 3);
      x.set(at, bad);
      const TopK c = by_count(50);
      Octets out(c.max_bytes(n, dtype), 0xAA);
      const auto is_zero = [&](const Compressor::Encoded& sent) {
        return !sent.finite && sent.bytes == c.zero_bytes(n, dtype) &&
               std::all_of(out.begin(), out.begin() + static_cast<ptrdiff_t>(sent.bytes), [](uint8_t b) { return !b; });
      };
      EXPECT_TRUE(is_zero(c.encode(x.view(), {}, out)));
      const Vector before = test::random_vector(state_dtype(dtype), n, 4);
      Vector state(before);
      EXPECT_TRUE(is_zero(c.encode_shifted(x.view(), state.view(), {}, out)));
      EXPECT_EQ(state, before);
      EXPECT_TRUE(is_zero(c.encode_residual(x.view(), state.view(), {}, out)));
      EXPECT_LE(test::max_difference(state.view(), before.view()), 64 * test::epsilon(state_dtype(dtype)));
      for (size_t i = at; i < n; ++i) ASSERT_EQ(state[i], before[i]);

      test::Endpoints ends("ErrorFeedback(TopK(k=50))", n, 2, dtype);
      std::ignore = ends.send(0, test::random_vector(dtype, n, 5));
      std::ignore = ends.send(1, test::random_vector(dtype, n, 6));
      const Vector owed = ends.state(0);
      const Vector mean = ends.receive({ends.send(0, x), ends.send(1, test::random_vector(dtype, n, 7))});
      EXPECT_TRUE(test::all_nan(mean.view()));
      EXPECT_EQ(ends.state(0), owed);  // Sender looks first: to the bit
    }
  }
}

TEST_P(TopKPayloadTest, MarkedMessagesDecodeToNan) {
  Vector x = test::random_vector(dtype, 20000, 1);
  x.set(7, NAN);
  const TopK c = by_ratio(0.1);
  Octets out(max_message_bytes(c, 20000, dtype));
  out.resize(encode_message(c, x.view(), 0, 0, 0, out));
  EXPECT_EQ(out.size(), wire::overhead(1) + 4);
  uint64_t numel = 0;
  const wire::Message message = check_message(out, &numel);
  const Vector y(dtype, numel);
  decode_message(message, y.view());
  EXPECT_TRUE(test::all_nan(y.view()));
}

TEST_P(TopKPayloadTest, ZeroPayloadIsZeros) {
  for (const size_t n : {0, 1, 16384, 16385}) {
    const TopK c = by_count(3);
    const Octets zeros(c.zero_bytes(n, dtype));
    EXPECT_NO_THROW(c.validate(zeros, n, dtype));
    EXPECT_EQ(test::max_abs(decoded(c, zeros, dtype, n).view()), 0);
    EXPECT_EQ(encoded(c, Vector(dtype, n)), zeros);
    EXPECT_LE(zeros.size(), c.max_bytes(n, dtype));
  }
}

TEST_P(TopKPayloadTest, AveragesInTheGivenOrderWithOneDivision) {
  const size_t n = 20000;
  const DType state = state_dtype(dtype);
  const TopK c = by_ratio(0.2);
  for (const size_t world : {1, 2, 3, 17}) {
    std::vector<Octets> payloads;
    Vector sum(state, n), expected(dtype, n);
    for (size_t r = 0; r < world; ++r) {
      payloads.push_back(encoded(c, test::random_vector(dtype, n, r)));
      c.decode_add(payloads.back(), dtype, 1.0, sum.view());
    }
    for (size_t i = 0; i < n; ++i) {
      if (state == DType::kFloat64)
        expected.set(i, sum[i] / static_cast<double>(world));
      else
        expected.set(i, static_cast<float>(sum[i]) / static_cast<float>(world));
    }
    const Vector out(dtype, n);
    const std::vector<Bytes> in(payloads.begin(), payloads.end());
    c.decode_mean(in, out.view());
    EXPECT_EQ(test::max_difference(out.view(), expected.view()), 0.0);
  }
}

TEST_P(TopKPayloadTest, AddsScaled) {
  const TopK c = by_count(20);
  const Vector x = test::random_vector(dtype, 500, 1), y = kept(x, 20);
  for (const DType acc_dtype : {DType::kFloat32, DType::kFloat64}) {
    Vector acc = test::random_vector(acc_dtype, 500, 2), expected(acc);
    for (size_t i = 0; i < 500; ++i) {
      if (acc_dtype == DType::kFloat64)
        expected.set(i, acc[i] + -0.7 * y[i]);
      else
        expected.set(i, static_cast<float>(acc[i]) + -0.7f * static_cast<float>(y[i]));
    }
    c.decode_add(encoded(c, x), dtype, -0.7, acc.view());
    EXPECT_EQ(test::max_difference(acc.view(), expected.view()), 0.0);
  }
}

TEST_P(TopKPayloadTest, NoHostilePayloadGetsThrough) {
  std::mt19937_64 random(11);
  size_t accepted = 0;
  for (int trial = 0; trial < 20'000; ++trial) {
    const size_t n = std::array<size_t, 4>{1, 60, 900, 16400}[random() % 4];
    const TopK c = by_count(1 + random() % 30);
    Octets bytes;
    if (trial % 2) {
      bytes = encoded(c, test::random_vector(dtype, n, static_cast<uint64_t>(trial % 16)));
      for (size_t flips = 1 + random() % 3; flips > 0; --flips)
        bytes[random() % bytes.size()] ^= static_cast<uint8_t>(1u << random() % 8);
      if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 2));
    } else {
      bytes.resize(random() % 200);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      if (bytes.size() > 1) bytes[0] &= 3, bytes[1] &= 0x80;
    }
    bytes.shrink_to_fit();
    try {
      c.validate(bytes, n, dtype);
      ++accepted;
      const Vector y = decoded(c, bytes, dtype, n);
      ASSERT_TRUE(kernels::all_finite(y.view()) || dtype == DType::kFloat64);
    } catch (const WireError& e) {
      ASSERT_TRUE(test::contains(e.what(), "expected ") && test::contains(e.what(), "found ")) << e.what();
    }
  }
  EXPECT_GT(accepted, 100u);  // a value may be any number
  EXPECT_LT(accepted, 12'000u);
}

TEST_P(TopKPayloadTest, RejectsTheWrongLengthCountAndNonFiniteValues) {
  const TopK c = by_count(5);
  Octets payload = encoded(c, test::random_vector(dtype, 100, 1));
  EXPECT_NO_THROW(by_count(6).validate(payload, 100, dtype));
  EXPECT_THROW(by_count(4).validate(payload, 100, dtype), WireError);
  for (size_t length = 0; length < payload.size(); ++length)
    ASSERT_THROW(c.validate(Octets(payload.begin(), payload.begin() + static_cast<ptrdiff_t>(length)), 100, dtype),
                 WireError);
  for (const uint64_t hostile : {uint64_t{1} << 32, uint64_t{1} << 60, uint64_t{1} << 63, UINT64_MAX})
    EXPECT_THROW(c.validate(payload, hostile, dtype), WireError);
  with_element(dtype, [&](auto element) {
    using E = decltype(element);
    E::store(payload.data() + payload.size() - size_of(dtype), 0, static_cast<typename E::State>(INFINITY));
  });
  EXPECT_THROW(c.validate(payload, 100, dtype), WireError);
  payload.push_back(0);
  EXPECT_THROW(c.validate(payload, 100, dtype), WireError);
}

TEST(TopK, SaturatesInSixteenBits) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const double top = dtype == DType::kFloat16 ? 65504.0 : 0x1.FEp127;
    Vector x(dtype, 3), e(DType::kFloat32, 3);
    x.set(1, -top);
    e.set(1, dtype == DType::kFloat16 ? -70000.0 : -0x1p119);
    const double acc = static_cast<float>(x[1] + e[1]);
    const TopK c = by_count(1);
    Octets out(c.max_bytes(3, dtype));
    const auto sent = c.encode_residual(x.view(), e.view(), {}, out);
    ASSERT_TRUE(sent.finite);
    out.resize(sent.bytes);
    c.validate(out, 3, dtype);
    EXPECT_EQ(decoded(c, out, dtype, 3)[1], -top);
    EXPECT_EQ(e[1], acc + top);
  }
}

TEST(TopK, KnowsItsClassTargetAndSpec) {
  EXPECT_EQ(by_ratio(0.01).target(0), 0u);
  EXPECT_EQ(by_ratio(0.01).target(1), 1u);
  EXPECT_EQ(by_ratio(0.01).target(100), 1u);
  EXPECT_EQ(by_ratio(0.01).target(101), 2u);
  EXPECT_EQ(by_ratio(1.0).target(UINT64_MAX), UINT64_MAX);
  EXPECT_EQ(by_count(7).target(5), 5u);
  EXPECT_EQ(by_count(7).class_of(70).alpha, 0.1);
  EXPECT_FALSE(by_count(7).class_of(70).omega);
  EXPECT_EQ(by_count(7).class_of(7).omega, 0.0);
  EXPECT_EQ(by_count(7).class_of(0).alpha, 1.0);
  for (const char* spec : {"TopK(ratio=0.01)", "TopK(ratio=1e-05)", "TopK(ratio=1.0)", "TopK(k=100)"}) {
    EXPECT_EQ(parse_compressor(spec)->spec(), spec);
    EXPECT_EQ(parse_compressor(spec)->as_contractive()->spec(), spec);
    EXPECT_EQ(parse_compressor(spec)->as_unbiased()->spec(), spec);
    EXPECT_EQ(parse_compressor(spec)->granularity(), 1u);
    EXPECT_TRUE(decoder_for(parse_compressor(spec)->format())->format() == parse_compressor(spec)->format());
  }
  EXPECT_EQ(parse_compressor("TopK(0.5)")->spec(), "TopK(ratio=0.5)");
  EXPECT_EQ(parse_compressor("TopK(None, 5)")->spec(), "TopK(k=5)");
  EXPECT_THROW(TopK({}), ArgumentError);
  EXPECT_THROW(TopK({.ratio = 0.1, .k = 1}), ArgumentError);
  EXPECT_THROW(by_ratio(0), ArgumentError);
  EXPECT_THROW(by_ratio(NAN), ArgumentError);
  EXPECT_THROW(by_ratio(1.1), ArgumentError);
  EXPECT_THROW(by_count(0), ArgumentError);
  const struct {
    const char *text, *says;
  } cases[] = {{"TopK()", "expected one of ratio and k, got none"},
               {"TopK(0.1, 3)", "expected one of ratio and k, got both"},
               {"TopK(ratio=0)", "ratio: expected a number above 0, at most 1, got 0"},
               {"TopK(ratio=1.5)", "ratio: expected a number above 0, at most 1, got 1.5"},
               {"TopK(ratio='a')", "ratio: expected a number"},
               {"TopK(k=0)", "k: expected an integer from 1"},
               {"TopK(k=0.5)", "k: expected an integer from 1"}};
  for (const auto& c : cases)
    EXPECT_TRUE(test::contains(test::error_of<SpecError>([&] { parse_compressor(c.text); }), c.says)) << c.text;
}

TEST(TopK, BitsPerEntryAtOnePercent) {
  const Vector x = test::random_vector(DType::kFloat32, 1'000'000, 1);
  const TopK c = by_ratio(0.01);
  const double bits = 8.0 * static_cast<double>(encoded(c, x).size()) / 10'000;
  std::printf("fp32, 1 %%: %.3f bits per entry, of which index %.3f; hard maximum %.3f\n", bits, bits - 32,
              8.0 * static_cast<double>(c.max_bytes(1'000'000, DType::kFloat32)) / 10'000);
  EXPECT_LE(bits - 32, 8.8);
}

}  // namespace
}  // namespace tsq
