// The constants of the sparse family: unbiased in expectation, variance, contraction; attained where they can be.
#include "compressors/registry.h"
#include "compressors/sparse_sign.h"
#include "compressors/stochastic_sparsifier.h"
#include "compressors/topk_inputs.h"

namespace tsq {
namespace {

using test::decoded;
using test::encoded;
using test::Vector;

struct Moments {
  std::vector<double> mean;
  double error = 0;   ///< E|C(x) - x|^2 / |x|^2
  double spread = 0;  ///< its standard deviation, of the mean
  double second = 0;  ///< E|C(x)|^2
};

Moments moments(const Compressor& c, const Vector& x, int trials) {
  Moments out{std::vector<double>(x.size())};
  double norm = 0, squares = 0;
  for (size_t i = 0; i < x.size(); ++i) norm += x[i] * x[i];
  for (int t = 0; t < trials; ++t) {
    const EncodeKey key = encode_key({.seed = 7, .step = uint64_t(t), .rank = 1}, 0, 3);
    const Vector y = decoded(c, encoded(c, x, key), x.view().dtype, x.size());
    double error = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      out.mean[i] += y[i] / trials;
      error += (y[i] - x[i]) * (y[i] - x[i]) / norm;
      out.second += y[i] * y[i] / trials;
    }
    out.error += error / trials;
    squares += error * error / trials;
  }
  out.spread = std::sqrt(std::max(0.0, squares - out.error * out.error) / trials);
  return out;
}

std::vector<Vector> inputs(size_t n) {
  std::vector<Vector> out{test::random_vector(DType::kFloat32, n, 1), Vector(DType::kFloat32, n),
                          Vector(DType::kFloat32, n), Vector(DType::kFloat32, n)};
  for (size_t i = 0; i < n; ++i) {
    out[1].set(i, i % 2 ? 1 : -1);
    out[2].set(i, i == 3 ? 1 : 1e-3);
    out[3].set(i, std::exp(-0.2 * static_cast<double>(i)));
  }
  return out;
}

TEST(SparseClass, UnbiasedMapsAreUnbiasedWithinTheirVariance) {
  const size_t n = 48;
  const int trials = 4000;
  for (const char* spec :
       {"RandK(k=7)", "RandK(k=40, shared=True)", "PermK()", "Bernoulli(p=0.2)", "StochasticSparsifier(budget=6)",
        "RandK(k=12, value_dtype=Quantizer(bits=4, block=32))", "Bernoulli(p=0.3, value_dtype='fp32')",
        "StochasticSparsifier(budget=9, value_dtype=Quantizer(bits=3, block=32))"}) {
    const CompressorPtr c = parse_compressor(spec)->as_unbiased();
    const double omega = *c->class_of(n, 3).omega;
    const bool exact = !test::contains(spec, "Stochastic") && !test::contains(spec, "Quantizer");
    for (const Vector& x : inputs(n)) {
      const Moments m = moments(*c, x, trials);
      double norm = 0, off = 0;
      for (size_t i = 0; i < n; ++i) norm += x[i] * x[i], off += (m.mean[i] - x[i]) * (m.mean[i] - x[i]);
      // E off = error / trials
      EXPECT_LT(off / norm, 2.5 * m.error / trials + 1e-6) << spec;
      EXPECT_LE(m.error, omega + 5 * m.spread + 1e-6) << spec;
      if (exact) {
        EXPECT_NEAR(m.error, omega, 5 * m.spread + 1e-6) << spec;
      }
    }
  }
}

TEST(SparseClass, ContractiveMapsContract) {
  const size_t n = 48;
  for (const char* spec :
       {"RandK(k=7)", "PermK()", "Bernoulli(p=0.2)", "StochasticSparsifier(budget=6)", "SparseSign(k=5)",
        "SparseSign(ratio=1.0)", "TopK(k=7, value_dtype=Quantizer(bits=4, block=32, levels='unbiased'))",
        "TopK(k=7, value_dtype=Quantizer(bits=4, block=32))",
        "TopK(k=40, value_dtype=Quantizer(bits=2, block=32, levels='unbiased'))", "TopK(k=7, value_dtype='bf16')",
        "RandK(k=40, value_dtype=Quantizer(bits=2, block=32))", "PermK(value_dtype=Quantizer(bits=1, block=32))",
        "Bernoulli(p=0.5, value_dtype=Quantizer(bits=3, block=32))",
        "StochasticSparsifier(budget=9, value_dtype=Quantizer(bits=3, block=32))"}) {
    const CompressorPtr c = parse_compressor(spec)->as_contractive();
    const auto alpha = c->class_of(n, 3).alpha;
    ASSERT_TRUE(alpha) << spec;
    EXPECT_GT(*alpha, 0) << spec;
    for (const Vector& x : inputs(n)) {
      const Moments m = moments(*c, x, 3000);
      EXPECT_LE(m.error, (1 - *alpha) + 5 * m.spread + 1e-4) << spec;
      const bool equality = std::string_view(spec) == "RandK(k=7)" || std::string_view(spec) == "PermK()" ||
                            std::string_view(spec) == "Bernoulli(p=0.2)";
      if (equality) {
        EXPECT_NEAR(m.error, 1 - *alpha, 5 * m.spread + 1e-6) << spec;
      }
    }
  }
}

// E|C(x)|^2 = sum x^2 / p with the solved p, and no other p of the same sum has less.
TEST(SparseClass, StochasticSparsifierHasTheLeastVariance) {
  const size_t n = 40;
  std::mt19937_64 random(3);
  for (const Vector& x : inputs(n)) {
    for (const uint64_t budget : {1, 5, 20}) {
      const double tau = solve_threshold(x.view().as<float>(), n, budget);
      double sum = 0, second = 0;
      std::vector<double> p(n);
      for (size_t i = 0; i < n; ++i) {
        if (x[i] == 0) continue;
        p[i] = std::min(1.0, std::abs(x[i]) / tau);
        sum += p[i];
        second += x[i] * x[i] / p[i];
      }
      EXPECT_NEAR(sum, static_cast<double>(budget), 1e-9);
      const CompressorPtr c = parse_compressor(concat("StochasticSparsifier(budget=", budget, ")"));
      const Moments m = moments(*c, x, 4000);
      double norm = 0;
      for (size_t i = 0; i < n; ++i) norm += x[i] * x[i];
      EXPECT_NEAR(m.second / norm, second / norm, 5 * m.spread + 0.02 * second / norm);
      EXPECT_LE(second, norm * double(n) / double(budget) * (1 + 1e-9));
      for (int trial = 0; trial < 200; ++trial) {
        std::vector<double> other(p);
        const size_t a = random() % n, b = random() % n;
        const double step = 0.3 * std::min(1 - other[a], other[b]);
        if (a == b || x[a] == 0 || x[b] == 0) continue;
        other[a] += step, other[b] -= step;
        double worse = 0;
        for (size_t i = 0; i < n; ++i)
          if (x[i] != 0) worse += x[i] * x[i] / other[i];
        EXPECT_GE(worse, second * (1 - 1e-9));
      }
    }
  }
}

// Probabilities of the order of 2^-16 live on the second half of the uniform numbers.
TEST(SparseClass, RareEntriesAreAsFrequentAsTheyShouldBe) {
  const size_t n = 1 << 20;
  Vector x(DType::kFloat32, n);
  for (size_t i = 0; i < n; ++i) x.set(i, 1.0);
  for (const char* spec : {"Bernoulli(p=1e-05)", "StochasticSparsifier(budget=1e-05)"}) {
    const CompressorPtr c = parse_compressor(spec);
    double sent = 0;
    const int trials = 40;
    for (int t = 0; t < trials; ++t) {
      const Vector y = decoded(*c, encoded(*c, x, encode_key({.step = uint64_t(t)}, 0, 1)), DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) sent += y[i] != 0;
    }
    const double expected = trials * std::ceil(1e-5 * static_cast<double>(n));
    EXPECT_NEAR(sent, expected, 5 * std::sqrt(expected)) << spec;
  }
}

TEST(SparseClass, StochasticSparsifierSendsAllThatFits) {
  Vector x(DType::kFloat32, 100);
  for (size_t i = 0; i < 100; i += 10) x.set(i, 1.0 + static_cast<double>(i));
  const CompressorPtr c = parse_compressor("StochasticSparsifier(budget=10)");
  EXPECT_EQ(decoded(*c, encoded(*c, x), DType::kFloat32, 100), x);
}

TEST(SparseClass, SparseSignIsThePapersMapAndItsFitAttainsAlpha) {
  Vector x(DType::kFloat32, 4);
  for (size_t i = 0; i < 4; ++i) x.set(i, std::array<double, 4>{2, -4, 1, -2}[i]);
  const SparseSign plain({.ratio = {}, .k = 2});
  const Vector y = decoded(plain, encoded(plain, x), DType::kFloat32, 4),
               fit = decoded(*plain.as_contractive(), encoded(*plain.as_contractive(), x), DType::kFloat32, 4);
  EXPECT_EQ(y[0], 5);  // |x| = 5
  EXPECT_EQ(y[1], -5);
  EXPECT_EQ(fit[0], 3);
  EXPECT_EQ(fit[1], -3);
  EXPECT_FALSE(plain.class_of(4).alpha || plain.class_of(4).omega);
  for (const auto& [n, k, ones] : {std::array<size_t, 3>{100, 4, 100}, {16, 8, 1}}) {  // T/n, 1/T
    const CompressorPtr c = SparseSign({.ratio = {}, .k = k}).as_contractive();
    Vector worst(DType::kFloat32, n);
    for (size_t i = 0; i < n; ++i) worst.set(i, i < ones ? 1.0 : 1e-6);
    EXPECT_NEAR(moments(*c, worst, 1).error, 1 - *c->class_of(n).alpha, 1e-3);
  }
}

}  // namespace
}  // namespace tsq
