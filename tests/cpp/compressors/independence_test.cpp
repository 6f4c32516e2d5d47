// Neighbouring ranks and steps draw independently, whatever the unbiased map: the mean of n messages of one vector has
// an n-th of one message's variance.
#include <gtest/gtest.h>

#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

constexpr size_t kElements = 4096, kMessages = 64, kTrials = 40;

struct Variance {
  double single = 0, of_mean = 0;  ///< E|C(x) - x|^2 and E|mean of kMessages - x|^2, both over |x|^2
};

/// `key`: of message m in trial t.
template <class Key>
Variance measure(const Compressor& c, const Vector& x, const Key& key) {
  Variance out;
  double norm = 0;
  for (size_t i = 0; i < kElements; ++i) norm += x[i] * x[i];
  std::vector<uint8_t> payload(c.max_bytes(kElements, DType::kFloat64));
  const double* const given = x.view().as<double>();
  for (uint64_t trial = 0; trial < kTrials; ++trial) {
    std::vector<double> mean(kElements);
    for (uint32_t message = 0; message < kMessages; ++message) {
      const auto sent = c.encode(x.view(), key(trial, message), payload);
      const Vector m(DType::kFloat64, kElements);
      c.decode_add(Bytes(payload).first(sent.bytes), DType::kFloat64, 1.0, m.view());
      const double* const value = m.view().as<double>();
      for (size_t i = 0; i < kElements; ++i) {
        mean[i] += value[i] / kMessages;
        out.single += (value[i] - given[i]) * (value[i] - given[i]) / (norm * kMessages * kTrials);
      }
    }
    for (size_t i = 0; i < kElements; ++i)
      out.of_mean += (mean[i] - given[i]) * (mean[i] - given[i]) / (norm * kTrials);
  }
  return out;
}

class Independence : public testing::TestWithParam<const char*> {
 protected:
  const CompressorPtr c = parse_compressor(GetParam())->as_unbiased();
  const Vector x = test::random_vector(DType::kFloat64, kElements, 3);
};
INSTANTIATE_TEST_SUITE_P(All, Independence,
                         testing::Values("Quantizer(bits=1)", "Quantizer(bits=2, block=32)", "Quantizer(bits=4)",
                                         "Quantizer(bits=8)", "Ternary()", "Natural()", "RandK(ratio=0.1)",
                                         "RandK(ratio=0.7, value_dtype=Quantizer(bits=3))", "Bernoulli(p=0.1)",
                                         "StochasticSparsifier(budget=0.1)", "UniformStep(bits=1.0)",
                                         "UniformStep(step=0.5)", "Dithering(levels=16)",
                                         "Dithering(levels=3, norm='inf', block=256)", "NaturalDithering(levels=6)",
                                         "VaryingDithering(ratio=0.1)", "BlockDithering(blocks=16, ratio=0.2)",
                                         "SmoothBernoulli(ratio=0.1)"),
                         [](const auto& info) { return concat("Spec", info.index); });

TEST_P(Independence, OfRanks) {
  const Variance v = measure(
      *c, x, [](uint64_t trial, uint32_t rank) { return encode_key({.step = trial, .rank = rank}, 0, kMessages); });
  EXPECT_NEAR(v.of_mean * kMessages / v.single, 1.0, 0.03);
  // Where the variance is omega for every vector, that of the mean is omega / n.
  const std::string_view spec = GetParam();
  if (spec == "RandK(ratio=0.1)" || spec.starts_with("Bernoulli") || spec.starts_with("SmoothBernoulli")) {
    EXPECT_NEAR(v.of_mean * kMessages / *c->class_of(kElements, kMessages).omega, 1.0, 0.03);
  }
}

TEST_P(Independence, OfSteps) {
  const Variance v = measure(*c, x, [](uint64_t trial, uint32_t step) {
    return encode_key({.seed = trial, .step = step, .rank = 1}, 0, kMessages);
  });
  EXPECT_NEAR(v.of_mean * kMessages / v.single, 1.0, 0.03);
}

// With the same key the ranks' errors are one: what the tests above would see if a rank were left out of the key.
TEST(SharedDraws, AreNotIndependent) {
  const Vector x = test::random_vector(DType::kFloat64, kElements, 3);
  for (const char* spec : {"Quantizer(bits=4)", "RandK(ratio=0.1, shared=True)"}) {
    const bool shared = test::contains(spec, "shared");
    const Variance v = measure(*parse_compressor(spec)->as_unbiased(), x, [&](uint64_t trial, uint32_t rank) {
      return encode_key({.step = trial, .rank = shared ? rank : 0}, 0, kMessages);
    });
    EXPECT_NEAR(v.of_mean / v.single, 1.0, 1e-6) << spec;
  }
}

}  // namespace
}  // namespace tsq
