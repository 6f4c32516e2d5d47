// Twenty steps of error feedback with one compressor, for tests of conservation: messages + residual = inputs.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/philox.h"
#include "compressors/compressor.h"
#include "vectors.h"

namespace tsq::test {

struct Balance {
  std::vector<double> given, accounted;  // sums of the inputs; of the messages, and the last residual
  double largest = 0;                    // magnitude of what was rounded on the way
};

inline Balance balance_of_error_feedback(const Compressor& c, DType dtype) {
  const size_t n = 777;
  const Vector e(state_dtype(dtype), n), sum(state_dtype(dtype), n);
  Balance balance{std::vector<double>(n), std::vector<double>(n)};
  for (uint64_t step = 0; step < 20; ++step) {
    const Vector x = random_vector(dtype, n, step);
    for (size_t i = 0; i < n; ++i) balance.given[i] += x[i];
    std::vector<uint8_t> out(c.max_bytes(n, dtype));
    const auto sent = c.encode_residual(x.view(), e.view(), {philox_key({.step = step}), 0}, out);
    EXPECT_TRUE(sent.finite);
    c.decode_add(Bytes(out).first(sent.bytes), dtype, 1.0, sum.view());
    balance.largest = std::max({balance.largest, max_abs(e.view()), max_abs(sum.view())});
  }
  for (size_t i = 0; i < n; ++i) balance.accounted[i] = sum[i] + e[i];
  return balance;
}

}  // namespace tsq::test
