// Codec 13 and its two encoders: edges, forms, hostile payloads, and fitted compressors.
#include "compressors/stepped_levels.h"

#include <gtest/gtest.h>

#include "compressors/block_dithering.h"
#include "compressors/registry.h"
#include "compressors/smooth_bernoulli.h"
#include "compressors/varying_dithering.h"
#include "smoothness/smoothness.h"
#include "vectors.h"
#include "wire/levels.h"

namespace tsq {
namespace {

using test::Vector;

constexpr const char* kSpecs[] = {"VaryingDithering(ratio=0.3)", "VaryingDithering(ratio=1.0, norm=2)",
                                  "BlockDithering(blocks=7, ratio=0.4)",
                                  "BlockDithering(blocks=300, steps='uniform', ratio=0.4, scale_dtype='bf16')"};

Vector random_vector(DType dtype, size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Vector x(dtype, n);
  for (size_t i = 0; i < n; ++i) x.set(i, normal(random));
  return x;
}

std::vector<uint8_t> payload_of(const Compressor& c, const Vector& x, uint64_t step = 0) {
  std::vector<uint8_t> out(c.max_bytes(x.size(), x.view().dtype));
  out.resize(c.encode(x.view(), {philox_key({.seed = 5, .step = step}), 0}, out).bytes);
  return out;
}

Vector decoded(const Compressor& c, Bytes payload, size_t n) {
  Vector out(DType::kFloat64, n);
  c.validate(payload, n, DType::kFloat32);
  c.decode_add(payload, DType::kFloat32, 1.0, out.view());
  return out;
}

TEST(SteppedLevels, EdgesOfLength) {
  for (const char* spec : kSpecs) {
    const CompressorPtr c = parse_compressor(spec);
    for (const size_t n : {size_t{0}, size_t{1}, size_t{2}, size_t{31}, size_t{255}, size_t{256}, size_t{257},
                           size_t{65535}, size_t{65536}, size_t{65537}}) {
      const Vector x = random_vector(DType::kFloat32, n, 3);
      const std::vector<uint8_t> payload = payload_of(*c, x);
      const Vector value = decoded(*c, payload, n);
      double error = 0, norm = 0;
      for (size_t i = 0; i < n; ++i) error += (value[i] - x[i]) * (value[i] - x[i]), norm += x[i] * x[i];
      EXPECT_LE(error, 2 * (*c->class_of(n).omega + 1e-12) * norm + 1e-12) << spec << " " << n;
      Vector mean(DType::kFloat64, n);
      const Bytes twice[] = {payload, payload};
      c->decode_mean(twice, mean.view());
      EXPECT_TRUE(mean == value) << spec << " " << n;
      const Vector zero(DType::kFloat32, n);
      EXPECT_EQ(payload_of(*c, zero).size(), c->zero_bytes(n, DType::kFloat32));
    }
  }
}

TEST(SteppedLevels, FormsConserve) {
  for (const char* spec : kSpecs) {
    const CompressorPtr c = parse_compressor(spec)->as_contractive();
    const size_t n = 1000;
    const Vector x = random_vector(DType::kFloat32, n, 1);
    Vector e = random_vector(DType::kFloat32, n, 2), h = e;
    const Vector e0 = e;
    std::vector<uint8_t> out(c->max_bytes(n, DType::kFloat32));
    const EncodeKey key{philox_key({.seed = 1}), 0};
    auto sent = c->encode_residual(x.view(), e.view(), key, out);
    Vector m = decoded(*c, Bytes(out).first(sent.bytes), n);
    for (size_t i = 0; i < n; ++i)
      EXPECT_EQ(float(e[i]), (float(e0[i]) + float(x[i])) - float(m[i])) << spec << " " << i;
    sent = c->encode_shifted(x.view(), h.view(), key, out);
    m = decoded(*c, Bytes(out).first(sent.bytes), n);
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(float(h[i]), float(e0[i]) + float(m[i])) << spec << " " << i;
  }
}

TEST(SteppedLevels, HugeTinyAndNonFinite) {
  for (const char* spec : kSpecs) {
    const CompressorPtr c = parse_compressor(spec);
    for (const double size : {1e-45, 1e-38, 1e-29, 1e30, 3.4e38}) {
      Vector x = random_vector(DType::kFloat32, 300, 4);
      for (size_t i = 0; i < x.size(); ++i) x.set(i, std::clamp(x[i], -1.0, 1.0) * size);
      const std::vector<uint8_t> payload = payload_of(*c, x);
      const Vector value = decoded(*c, payload, 300);
      for (size_t i = 0; i < 300; ++i) EXPECT_TRUE(std::isfinite(float(value[i]))) << spec << " " << size;
    }
    for (const double bad : {double(INFINITY), double(NAN)}) {
      Vector x = random_vector(DType::kFloat32, 300, 4);
      x.set(299, bad);
      std::vector<uint8_t> out(c->max_bytes(300, DType::kFloat32), 77);
      const auto sent = c->encode(x.view(), {philox_key({}), 0}, out);
      EXPECT_FALSE(sent.finite);
      EXPECT_EQ(sent.bytes, c->zero_bytes(300, DType::kFloat32));
      EXPECT_TRUE(std::all_of(out.begin(), out.begin() + long(sent.bytes), [](uint8_t b) { return b == 0; }));
    }
  }
}

TEST(SteppedLevels, LevelsUpToTheLargest) {  // one huge element: the step follows it, and stays unbiased
  const CompressorPtr c = parse_compressor("VaryingDithering(bits=12.0)");
  Vector x(DType::kFloat32, 3000);
  for (size_t i = 0; i < x.size(); ++i) x.set(i, 1e-4);
  x.set(7, 1000.0);
  const std::vector<uint8_t> payload = payload_of(*c, x);
  EXPECT_EQ(payload[4], 16);  // the width
  EXPECT_NEAR(decoded(*c, payload, 3000)[7], 1000.0, 1000.0 / 32767);
}

TEST(SteppedLevels, HostilePayloads) {
  const CompressorPtr c = parse_compressor("BlockDithering(blocks=4, ratio=0.5)");
  const size_t n = 300;
  const std::vector<uint8_t> good = payload_of(*c, random_vector(DType::kFloat32, n, 9));
  EXPECT_NO_THROW(c->validate(good, n, DType::kFloat32));
  const auto refused = [&](auto change) {
    std::vector<uint8_t> bad = good;
    change(bad);
    EXPECT_THROW(c->validate(bad, n, DType::kFloat32), WireError);
  };
  for (size_t length = 0; length < good.size(); ++length) refused([&](auto& b) { b.resize(length); });
  refused([](auto& b) { b.push_back(0); });
  for (const uint8_t width : {0, 1, 17, 255}) refused([&](auto& b) { b[16] = width; });
  for (const float scale : {-1.0f, -0.0f, NAN, INFINITY, 3.4028235e38f})
    refused([&](auto& b) { store<float>(&b[4], scale); });
  refused([](auto& b) { store<float>(&b[8], 0.0f); });  // levels in a block with scale 0
  const std::vector<uint8_t> zeros(21, 0);              // four scales, the width, a head
  EXPECT_NO_THROW(c->validate(zeros, n, DType::kFloat32));
  EXPECT_THROW(c->validate(zeros, 0, DType::kFloat32), WireError);
  EXPECT_THROW(c->validate(zeros, 65537, DType::kFloat32), WireError);  // a head for each segment: the size is credible
  std::vector<uint8_t> scaled = zeros;
  store<float>(&scaled[0], 1.0f);
  EXPECT_THROW(c->validate(scaled, n, DType::kFloat32), WireError);
}

TEST(SteppedLevels, FittedToASmoothness) {
  const size_t n = 64;
  Tuning tuning;
  for (size_t j = 0; j < n; ++j) tuning.diagonal.push_back(j % 8 == 0 ? 0.0 : std::pow(0.9, double(j)));
  for (const char* spec : {"VaryingDithering(budget=6.0)", "VaryingDithering(budget=6.0, norm=1)",
                           "BlockDithering(blocks=4, budget=10.0)", "SmoothBernoulli(budget=6.0)"}) {
    const CompressorPtr plain = parse_compressor(spec), fitted = plain->tuned(tuning);
    ASSERT_TRUE(fitted) << spec;
    EXPECT_EQ(fitted->spec(), plain->spec());
    EXPECT_EQ(fitted->format(), plain->format());
    EXPECT_THROW(fitted->check_numel(n + 1), ArgumentError) << spec;
    const Diagonal metric(tuning.diagonal);
    EXPECT_LT(*fitted->script_L(metric, n, 1), 0.8 * *plain->script_L(metric, n, 1)) << spec;
    Vector x = random_vector(DType::kFloat32, n, 5);
    for (size_t j = 0; j < n; j += 8) x.set(j, 0);
    std::vector<uint8_t> payload = payload_of(*fitted, x);
    EXPECT_NO_THROW(plain->validate(payload, n, DType::kFloat32)) << spec;
    const Vector value = decoded(*fitted, payload, n);
    for (size_t j = 0; j < n; j += 8) EXPECT_EQ(value[j], 0.0);
  }
  EXPECT_FALSE(parse_compressor("Dithering(levels=3)")->tuned(tuning));
}

}  // namespace
}  // namespace tsq
