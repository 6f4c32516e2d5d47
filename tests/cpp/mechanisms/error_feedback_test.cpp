// Error feedback: nothing is lost (conservation), a send can be taken back, non-finite input leaves no trace, and the
// theory holds.
#include "mechanisms/error_feedback.h"

#include <gtest/gtest.h>

#include "mechanisms/endpoints.h"
#include "mechanisms/section.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::Octets;
using test::Vector;

constexpr const char* kQuantized[] = {
    "ErrorFeedback(Quantizer(bits=1))", "ErrorFeedback(Quantizer(bits=4))",
    "ErrorFeedback(Quantizer(bits=2, levels='unbiased'))",
    "ErrorFeedback(Quantizer(bits=5, block=32, levels='unbiased', rounding='nearest'))"};

class ErrorFeedbackTest : public testing::TestWithParam<DType> {
 protected:
  const DType dtype = GetParam();
};
INSTANTIATE_TEST_SUITE_P(All, ErrorFeedbackTest, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(ErrorFeedbackTest, MessagesAndResidualAddUpToTheGradients) {
  constexpr uint64_t kSteps = 50;
  for (const char* spec : kQuantized) {
    for (uint32_t world = 1; world <= 4; ++world) {
      for (const size_t n : test::kSizes) {
        if (n == 5000 && world > 1) continue;
        Endpoints ends(spec, n, world, dtype);
        const Compressor& c = ends.config.mechanism->compressor();
        for (uint32_t r = 0; r < world; ++r) {
          const Vector messages(DType::kFloat64, n);
          std::vector<double> gradients(n);
          double size = 0;  // of the numbers that were rounded
          for (uint64_t step = 0; step < kSteps; ++step) {
            const Vector x = test::gradient_of(dtype, n, r, step);
            size = std::max(size, test::max_abs(ends.state(r).view()) + test::max_abs(x.view()));
            const Octets message = ends.send(r, x);
            c.decode_add(wire::parse(message).payloads[0], dtype, 1.0, messages.view());
            for (size_t i = 0; i < n; ++i) gradients[i] += x[i];
          }
          const Vector residual = ends.state(r);
          for (size_t i = 0; i < n; ++i)
            ASSERT_NEAR(messages[i] + residual[i], gradients[i], 4 * kSteps * test::epsilon(state_dtype(dtype)) * size)
                << spec << " n " << n << " rank " << r << " element " << i;
        }
      }
    }
  }
}

TEST_P(ErrorFeedbackTest, ResidualIsTheSumMinusTheMessageToTheBit) {
  for (const char* spec : kQuantized) {
    Endpoints ends(spec, 600, 1, dtype);
    for (uint64_t step = 0; step < 5; ++step) {
      const Vector x = test::gradient_of(dtype, 600, 0, step), e = ends.state(0), m(state_dtype(dtype), 600);
      const Octets message = ends.send(0, x);
      ends.config.mechanism->compressor().decode_add(wire::parse(message).payloads[0], dtype, 1.0, m.view());
      const Vector after = ends.state(0);
      for (size_t i = 0; i < 600; ++i) {
        if (dtype == DType::kFloat64)
          ASSERT_EQ(after[i], (e[i] + x[i]) - m[i]);
        else
          ASSERT_EQ(after[i], static_cast<float>(static_cast<float>(e[i] + x[i]) - m[i]));
      }
    }
  }
}

TEST_P(ErrorFeedbackTest, WithIdentityNothingIsLeft) {
  Endpoints ends("ErrorFeedback(Identity())", 257, 1, dtype);
  for (uint64_t step = 0; step < 5; ++step) {
    const Vector x = test::gradient_of(dtype, 257, 0, step);
    const Octets message = ends.send(0, x);
    ASSERT_TRUE(test::max_difference(ends.receive({message}).view(), x.view()) == 0);
    ASSERT_EQ(test::max_abs(ends.state(0).view()), 0.0);
  }
}

TEST_P(ErrorFeedbackTest, RetractRestoresTheState) {
  for (const char* spec : {kQuantized[0], kQuantized[1], kQuantized[2], kQuantized[3], "ErrorFeedback(Identity())"}) {
    for (const size_t n : test::kSizes) {
      Endpoints ends(spec, n, 1, dtype);
      for (uint64_t step = 0; step < 3; ++step) ends.send(0, test::gradient_of(dtype, n, 0, step));
      const Vector before = ends.state(0), x = test::gradient_of(dtype, n, 0, 3);
      const Octets message = ends.send(0, x);
      const View state[] = {ends.senders[0].state(0)};
      const wire::Message parsed = wire::parse(message);
      EXPECT_TRUE(ends.config.mechanism->retract(arrived(parsed, 0, *ends.config.mechanism), x.view(), state));
      const double size = test::max_abs(before.view()) + test::max_abs(x.view());
      EXPECT_LE(test::max_difference(ends.state(0).view(), before.view()), 4 * test::epsilon(state_dtype(dtype)) * size)
          << spec;
    }
  }
}

TEST_P(ErrorFeedbackTest, NonFiniteGradientIsMarkedAndLeavesNoTrace) {
  for (const char* spec : {kQuantized[0], kQuantized[1], kQuantized[2], "ErrorFeedback(Identity())"}) {
    for (const double poison : {NAN, INFINITY, -INFINITY}) {
      Endpoints ends(spec, 700, 2, dtype);
      Endpoints clean(spec, 700, 2, dtype);
      for (size_t r = 0; r < 2; ++r) {
        ends.send(r, test::gradient_of(dtype, 700, r, 0));
        clean.send(r, test::gradient_of(dtype, 700, r, 0));
      }
      const Vector before = ends.state(1);
      Vector x = test::gradient_of(dtype, 700, 1, 1);
      x.set(699, poison);
      const std::vector<Octets> messages = {ends.send(0, test::gradient_of(dtype, 700, 0, 1)), ends.send(1, x)};
      const wire::Message marked = wire::parse(messages[1]);
      EXPECT_TRUE(marked.sections[0].non_finite);
      EXPECT_TRUE(std::ranges::all_of(marked.payloads[0], [](uint8_t b) { return b == 0; }));
      EXPECT_EQ(ends.state(1), before);
      EXPECT_TRUE(test::all_nan(ends.receive(messages).view()));
      EXPECT_EQ(ends.senders[1].step(), 2u);
      clean.senders[1].set_step(2);  // goes on as if the step had not been
      const Vector next = test::gradient_of(dtype, 700, 1, 2);
      EXPECT_EQ(ends.send(1, next), clean.send(1, next));
    }
  }
}

TEST(ErrorFeedback, DoublesBeyondFloatCountAsInfinite) {
  Endpoints ends("ErrorFeedback(Quantizer(bits=4))", 300, 1, DType::kFloat64);
  Vector x = test::gradient_of(DType::kFloat64, 300, 0, 0);
  x.set(17, 1e39);
  EXPECT_TRUE(test::all_nan(ends.receive({ends.send(0, x)}).view()));
  EXPECT_EQ(test::max_abs(ends.state(0).view()), 0.0);
}

/// f(x) = 1/2 sum a_j (q_j.x)^2 - b.x with a of very different sizes: a quadratic in a random basis, minimum known.
struct Quadratic {
  explicit Quadratic(size_t n, uint64_t seed) : size(n), matrix(n * n), minimum(n) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    for (size_t k = 0; k < n; ++k) {
      const double weight = std::pow(10.0, -2.0 * static_cast<double>(random() % 1000) / 1000);
      std::vector<double> q(n);
      double norm = 0;
      for (double& v : q) v = normal(random), norm += v * v;
      for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < n; ++j) matrix[i * n + j] += weight * q[i] * q[j] / norm;
    }
    for (double& v : minimum) v = normal(random);
    std::vector<double> v(n, 1.0);  // the largest eigenvalue, by the power method, rounded up
    for (int k = 0; k < 500; ++k) {
      const std::vector<double> w = times(v);
      smoothness = std::sqrt(dot(w, w) / dot(v, v));
      for (size_t i = 0; i < n; ++i) v[i] = w[i] / std::sqrt(dot(w, w));
    }
    smoothness *= 1.001;
  }

  static double dot(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  std::vector<double> times(const std::vector<double>& x) const {
    std::vector<double> out(size);
    for (size_t i = 0; i < size; ++i)
      for (size_t j = 0; j < size; ++j) out[i] += matrix[i * size + j] * x[j];
    return out;
  }
  std::vector<double> gradient(std::vector<double> x) const {
    for (size_t i = 0; i < size; ++i) x[i] -= minimum[i];
    return times(x);
  }
  double gap(std::vector<double> x) const {  // f(x) - f*
    const std::vector<double> g = gradient(x);
    for (size_t i = 0; i < size; ++i) x[i] -= minimum[i];
    return dot(x, g) / 2;
  }

  size_t size;
  std::vector<double> matrix, minimum;
  double smoothness = 0;
};

TEST(ErrorFeedback, LyapunovFunctionFallsInEveryStep) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const char* rest : {", levels='fit'", ", levels='unbiased', rounding='nearest'"}) {
      const std::string spec = concat("ErrorFeedback(Quantizer(bits=", bits, ", block=32", rest, "))");
      if (bits == 1 && !test::contains(rest, "fit")) continue;  // one bit to the nearest is not contractive
      const size_t n = bits % 2 ? 33 : 20;
      const Quadratic f(n, static_cast<uint64_t>(bits));
      Endpoints ends(spec, n, 1, DType::kFloat64);
      const double alpha = *ends.config.mechanism->compressor().class_of(n).alpha, L = f.smoothness,
                   gamma = alpha / (4 * L);
      std::vector<double> x(n, 0.0);
      double before = 0, first = 0;
      std::vector<double> g;
      for (int step = 0; step <= 400; ++step) {
        const Vector e = ends.state(0);
        std::vector<double> virtual_x = x;
        double residual = 0;
        for (size_t i = 0; i < n; ++i) virtual_x[i] -= gamma * e[i], residual += gamma * gamma * e[i] * e[i];
        const double now = f.gap(virtual_x) + gamma * L * L / alpha * residual;
        if (step > 0) {
          ASSERT_LE(now, before - gamma / 4 * Quadratic::dot(g, g) + 1e-12 * first) << spec << " step " << step;
        } else {
          first = now;
        }
        before = now;
        g = f.gradient(x);
        Vector sent(DType::kFloat64, n);
        for (size_t i = 0; i < n; ++i) sent.set(i, g[i]);
        const Vector mean = ends.receive({ends.send(0, sent)});
        for (size_t i = 0; i < n; ++i) x[i] -= gamma * mean[i];
      }
      EXPECT_LT(before, first) << spec;
    }
  }
}

TEST(ErrorFeedback, WithIdentityIsGradientDescentToTheBit) {
  const Quadratic f(40, 5);
  for (const char* spec : {"ErrorFeedback(Identity())", "Direct(Identity())"}) {
    Endpoints ends(spec, 40, 1, DType::kFloat64);
    std::vector<double> plain(40, 0.0), x(40, 0.0);
    for (int step = 0; step < 50; ++step) {
      const std::vector<double> g = f.gradient(plain), sent = f.gradient(x);
      Vector v(DType::kFloat64, 40);
      for (size_t i = 0; i < 40; ++i) v.set(i, sent[i]);
      const Vector mean = ends.receive({ends.send(0, v)});
      for (size_t i = 0; i < 40; ++i) plain[i] -= g[i] / f.smoothness, x[i] -= mean[i] / f.smoothness;
      ASSERT_EQ(plain, x) << spec << " step " << step;
    }
  }
}

}  // namespace
}  // namespace tsq
