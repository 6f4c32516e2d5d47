// What the tests of UniformStep share: payloads, their values and loss, and data of several kinds.
#pragma once

#include <gtest/gtest.h>

#include "compressors/registry.h"
#include "compressors/uniform_step.h"
#include "vectors.h"

namespace tsq::test {

using Octets = std::vector<uint8_t>;

inline Octets encoded(const Compressor& c, const Vector& x, const EncodeKey& key = {}) {
  Octets out(c.max_bytes(x.size(), x.view().dtype));
  const auto sent = c.encode(x.view(), key, out);
  EXPECT_TRUE(sent.finite);
  out.resize(sent.bytes);
  EXPECT_NO_THROW(c.validate(out, x.size(), x.view().dtype));
  return out;
}

inline Vector decoded(Bytes payload, DType as, size_t n) {
  const Vector out(as, n);
  decoder_for({.codec = wire::Codec::kUniformStep})->decode_add(payload, as, 1.0, out.view());
  return out;
}

/// Relative squared error.
inline double loss(const Vector& x, const Vector& m) {
  double lost = 0, all = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    lost += (x[i] - m[i]) * (x[i] - m[i]);
    all += x[i] * x[i];
  }
  return lost / all;
}

enum class Kind { kGauss, kLaplace, kHeavy, kLayers };

inline Vector data(Kind kind, size_t n, uint64_t seed, DType dtype = DType::kFloat32) {
  std::mt19937_64 random(seed * 77 + 5);
  std::normal_distribution<double> normal;
  std::exponential_distribution<double> exponential;
  Vector x(dtype, n);
  double scale = 1e-3;
  for (size_t i = 0; i < n; ++i) {
    if (kind == Kind::kLayers && i % 4096 == 0) scale = 1e-3 * std::exp(normal(random));
    const double sign = random() % 2 ? 1 : -1;
    double v = normal(random);
    if (kind == Kind::kLaplace || kind == Kind::kLayers) v = sign * exponential(random);
    if (kind == Kind::kHeavy) v = normal(random) / std::max(0.05, std::abs(normal(random)));
    x.set(i, scale * v);
  }
  return x;
}

}  // namespace tsq::test
