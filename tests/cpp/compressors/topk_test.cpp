// TopK: exactly the largest, against a sort; forms. Its payloads: topk_payload_test.cpp.
#include "compressors/topk_inputs.h"
#include "wire/indices.h"

namespace tsq {
namespace {

using test::by_count;
using test::by_ratio;
using test::decoded;
using test::encoded;
using test::hard_inputs;
using test::kept;
using test::largest;
using test::Octets;
using test::Vector;

class TopKTest : public testing::TestWithParam<DType> {
 protected:
  const DType dtype = GetParam();
};
INSTANTIATE_TEST_SUITE_P(All, TopKTest, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(TopKTest, SendsExactlyTheLargest) {
  for (const size_t n : {0, 1, 2, 100, 4096, 4097, 16384, 16385, 60000}) {
    for (const Vector& x : hard_inputs(dtype, n)) {
      for (const size_t k : {size_t{1}, size_t{2}, n / 100, n / 10, n / 2, n - 1, n, n + 1}) {
        if (k == 0 || k > n + 1 || (n == 60000 && k % 2)) continue;
        const TopK c = by_count(k);
        const Octets payload = encoded(c, x);
        ASSERT_EQ(wire::index_extent(payload, n).count, largest(x, k).size()) << "n " << n << " k " << k;
        ASSERT_EQ(test::max_difference(decoded(c, payload, dtype, n).view(), kept(x, k).view()), 0)
            << "n " << n << " k " << k;
      }
    }
  }
}

/// Long enough for a guess of the bar from a sample; the guess is misled by large values where the sample is taken, or
/// where it is not.
TEST_P(TopKTest, IsExactWhateverTheSampleSays) {
  const size_t n = 120'000;
  for (const size_t k : {size_t{100}, size_t{1200}, size_t{12'000}}) {
    for (const size_t stride : {n / 117, n / 1024, n / 320, n / 64}) {
      for (const double elsewhere : {1.0, 0.0, 1e-3, 64.0}) {
        Vector x = test::random_vector(dtype, n, k), e(state_dtype(dtype), n);
        for (size_t i = 0; i < n; ++i)
          if (i % stride >= 16) x.set(i, elsewhere * x[i]);
        const TopK c = by_count(k);
        const Octets payload = encoded(c, x);
        ASSERT_EQ(test::max_difference(decoded(c, payload, dtype, n).view(), kept(x, k).view()), 0);
        Octets other(c.max_bytes(n, dtype));
        other.resize(c.encode_residual(x.view(), e.view(), {}, other).bytes);
        ASSERT_EQ(other, payload);
        const Vector m = decoded(c, payload, dtype, n);
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(e[i], x[i] - m[i]);
        e = Vector(state_dtype(dtype), n);
        other.resize(c.max_bytes(n, dtype));
        other.resize(c.encode_shifted(x.view(), e.view(), {}, other).bytes);
        ASSERT_EQ(other, payload);
        ASSERT_EQ(test::max_difference(e.view(), m.view()), 0);
      }
    }
  }
}

TEST_P(TopKTest, TiesGoToTheLowestIndex) {
  Vector x(dtype, 20000);
  for (size_t i = 0; i < 20000; ++i) x.set(i, i % 2 ? 1 : -1);
  x.set(19999, 2);
  const TopK c = by_count(101);
  const Vector y = decoded(c, encoded(c, x), dtype, 20000);
  for (size_t i = 0; i < 20000; ++i) ASSERT_EQ(y[i], i < 100 || i == 19999 ? x[i] : 0.0) << i;
}

TEST_P(TopKTest, FusedFormsAreTheComposedOnes) {
  const DType state = state_dtype(dtype);
  const auto round = [&](double v) {
    return state == DType::kFloat64 ? v : static_cast<double>(static_cast<float>(v));
  };
  for (const size_t n : {0, 1, 1000, 20000}) {
    for (const double ratio : {0.001, 0.01, 0.3, 1.0}) {
      const TopK c = by_ratio(ratio);
      const Vector x = test::random_vector(dtype, n, n), s = test::random_vector(state, n, n + 1);
      for (const bool residual : {true, false}) {
        Vector input(state, n), next(s), expected(state, n);
        for (size_t i = 0; i < n; ++i) input.set(i, round(residual ? s[i] + x[i] : x[i] - s[i]));
        Octets out(c.max_bytes(n, dtype));
        const auto sent = residual ? c.encode_residual(x.view(), next.view(), {}, out)
                                   : c.encode_shifted(x.view(), next.view(), {}, out);
        ASSERT_TRUE(sent.finite);
        out.resize(sent.bytes);
        ASSERT_NO_THROW(c.validate(out, n, dtype));
        Vector m(dtype, n);
        for (const size_t i : largest(input, c.target(n))) m.set(i, input[i]);  // rounded to the message's type
        ASSERT_EQ(test::max_difference(decoded(c, out, dtype, n).view(), m.view()), 0);
        for (size_t i = 0; i < n; ++i) expected.set(i, round(residual ? input[i] - m[i] : s[i] + m[i]));
        ASSERT_EQ(test::max_difference(next.view(), expected.view()), 0.0) << "n " << n << " ratio " << ratio;
      }
    }
  }
}

TEST_P(TopKTest, ErrorFeedbackLosesNothing) {
  const size_t n = 3000;
  test::Endpoints ends("ErrorFeedback(TopK(ratio=0.02))", n, 1, dtype);
  for (uint64_t step = 0; step < 20; ++step) {
    const Vector x = test::gradient_of(dtype, n, 0, step), e = ends.state(0);
    const Vector m = ends.receive({ends.send(0, x)});
    const Vector after = ends.state(0);
    size_t sent = 0;
    for (size_t i = 0; i < n; ++i) {
      const double acc = dtype == DType::kFloat64 ? e[i] + x[i] : static_cast<float>(e[i] + x[i]);
      ASSERT_EQ(m[i] + after[i], acc) << i;  // to the bit, in every type: what rounding kept back is in the residual
      sent += m[i] != 0;
    }
    EXPECT_EQ(sent, 60u);
  }
}

TEST_P(TopKTest, ContractsByItsClass) {
  const size_t n = 5000;
  for (const double ratio : {0.001, 0.01, 0.1, 1.0}) {
    const TopK c = by_ratio(ratio);
    for (const Vector& x : hard_inputs(dtype, n)) {
      const Vector y = decoded(c, encoded(c, x), dtype, n);
      double error = 0, norm = 0;
      for (size_t i = 0; i < n; ++i) error += (x[i] - y[i]) * (x[i] - y[i]), norm += x[i] * x[i];
      EXPECT_LE(error, (1 - *c.class_of(n).alpha) * norm * (1 + 1e-12));
    }
  }
}

}  // namespace
}  // namespace tsq
