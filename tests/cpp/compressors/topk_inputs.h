// What the tests of sparse vectors share: encoding and decoding, top-k's result by a sort, inputs that are hard.
#pragma once

#include <gtest/gtest.h>

#include <numeric>

#include "compressors/topk.h"
#include "mechanisms/endpoints.h"

namespace tsq::test {

inline TopK by_count(uint64_t k) { return TopK({.ratio = {}, .k = k}); }
inline TopK by_ratio(double ratio) { return TopK({.ratio = ratio, .k = {}}); }

inline Octets encoded(const Compressor& c, const Vector& x, const EncodeKey& key = {}) {
  Octets out(c.max_bytes(x.size(), x.view().dtype), 0xAA);
  const auto sent = c.encode(x.view(), key, out);
  EXPECT_TRUE(sent.finite);
  EXPECT_LE(sent.bytes, out.size());
  out.resize(sent.bytes);
  out.shrink_to_fit();
  EXPECT_NO_THROW(c.validate(out, x.size(), x.view().dtype));
  return out;
}

inline Vector decoded(const Compressor& c, const Octets& payload, DType dtype, size_t n) {
  const Vector out(dtype, n);
  const Bytes in(payload);
  c.decode_mean({&in, 1}, out.view());
  return out;
}

/// Indices of the min(k, non-zeros) largest magnitudes by a full stable sort.
inline std::vector<size_t> largest(const Vector& x, size_t k) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return std::abs(x[a]) > std::abs(x[b]); });
  order.resize(std::min(k, order.size()));
  while (!order.empty() && x[order.back()] == 0) order.pop_back();
  std::sort(order.begin(), order.end());
  return order;
}

/// What must be decoded: x at those indices, zero elsewhere.
inline Vector kept(const Vector& x, size_t k) {
  Vector out(x.view().dtype, x.size());
  for (const size_t i : largest(x, k)) out.set(i, x[i]);
  return out;
}

/// Inputs that are hard for a selection: random, ascending, descending, constant, few distinct values, denormals,
/// sparse.
inline std::vector<Vector> hard_inputs(DType dtype, size_t n) {
  std::vector<Vector> out{test::random_vector(dtype, n, n)};
  for (int kind = 0; kind < 7; ++kind) {
    Vector x(dtype, n);
    for (size_t i = 0; i < n; ++i) {
      const double up = static_cast<double>(i + 1) / static_cast<double>(n), sign = i % 3 ? 1 : -1;
      const double denormal = std::ldexp(1.0, dtype == DType::kFloat64   ? -1074
                                              : dtype == DType::kFloat32 ? -149
                                              : dtype == DType::kFloat16 ? -24
                                                                         : -133);
      const double values[] = {up,
                               1 - up + 0.001,
                               1,
                               static_cast<double>(i * 7919 % 5),
                               denormal * static_cast<double>(i * 31 % 100),
                               i % 97 ? 0.0 : up,
                               i == n / 2 ? 1.0 : 0.0};
      x.set(i, sign * values[kind]);
    }
    out.push_back(x);
  }
  return out;
}

}  // namespace tsq::test
