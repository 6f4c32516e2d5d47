// 8-bit floats: every SIMD target gives the codes and values of common/fp8.h.
#include <gtest/gtest.h>

#include <bit>

#include "common/fp8.h"
#include "kernels/float8.h"
#include "kernels/payload.h"

namespace tsq::kernels {
namespace {

template <class F>
void check(Float8Format format, const char* target) {
  std::vector<float> z;
  for (uint64_t bits = 1; bits < 0x7F800000u; bits += 40'009) {
    z.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    z.push_back(-z.back());
  }
  for (int code = 0; code <= 0x7F; ++code) {  // all numbers, and where two of them meet
    if (!F::finite(static_cast<uint8_t>(code))) break;
    const float value = F::decode(static_cast<uint8_t>(code));
    for (const float v :
         {value, std::nextafter(value, 0.0f), 0.5f * (value + F::decode(static_cast<uint8_t>(code + 1)))})
      z.insert(z.end(), {v, -v, std::nextafter(v, HUGE_VALF)});
  }
  z.insert(z.end(), {0.0f, -0.0f, HUGE_VALF});
  for (const float factor : {1.0f, 448.0f, 0x1p-20f}) {
    std::vector<uint8_t> guarded(z.size() + 1, 0xA5);
    encode_float8(format, z.data() + 1, z.size() - 1, factor, guarded.data());
    for (size_t i = 1; i < z.size(); ++i) ASSERT_EQ(guarded[i - 1], F::encode(z[i] * factor)) << target << ' ' << z[i];
    EXPECT_EQ(guarded[z.size() - 1], 0xA5);
  }
  std::vector<uint8_t> codes;
  for (int code = 0; code < 256; ++code)
    if (F::finite(static_cast<uint8_t>(code))) codes.push_back(static_cast<uint8_t>(code));
  for (const size_t m : {size_t{0}, size_t{1}, size_t{31}, size_t{128}, codes.size()}) {
    std::vector<float> values(m + 1, 7.0f);
    decode_float8(format, codes.data(), m, 0.3f, values.data());
    for (size_t i = 0; i < m; ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(F::decode(codes[i]) * 0.3f)) << target;
    EXPECT_EQ(values[m], 7.0f);
  }
}

TEST(Float8Simd, EqualsOracle) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    check<FloatE4M3>(Float8Format::kE4M3, target);
    check<FloatE5M2>(Float8Format::kE5M2, target);
  }
}

}  // namespace
}  // namespace tsq::kernels
