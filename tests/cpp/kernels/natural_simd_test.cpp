// Natural compression: every SIMD target gives the oracle's bytes, states, sums and verdicts.
#include <gtest/gtest.h>

#include "kernels/natural.h"
#include "kernels/payload.h"
#include "kernels/scalar.h"

namespace tsq::kernels {
namespace {

using test::Buffer;

constexpr size_t kCounts[] = {0, 1, 31, 32, 33, 255, 256, 257, 511, 513, 4095, 4097, 20003};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};
constexpr PhiloxKey kKey{0x12345678u, 0x9ABCDEF0u};

using Octets = std::vector<uint8_t>;

// The payload of a gradient, compared with the oracle's.
Octets check_encode(Form form, DType dtype, size_t n, uint64_t seed) {
  const Buffer x = test::gradient(dtype, n, size_of(dtype), seed, seed % 5 == 0);
  const DType state_type = state_dtype(dtype);
  const Buffer before = test::gradient(state_type, n, size_of(state_type), seed + 1);
  Buffer state = test::copy_of(before, size_of(state_type)), expected_state = test::copy_of(before, 0);
  const size_t bytes = natural_bytes(n);
  Octets guarded(1 + bytes + 64, 0xA5), expected(bytes);
  const uint64_t offset = seed % 3 == 0 ? (uint64_t{1} << 36) + 256 : seed % 3 * 256;
  const ConstView view{x.data(), dtype, n};
  void* const state_data = form == Form::kPlain ? nullptr : state.data();
  const bool finite = encode_natural(form, view, state_data, kKey, offset, guarded.data() + 1);
  EXPECT_EQ(finite, scalar::encode_natural(form, view, expected_state.data(), kKey, offset, expected.data()));
  const Octets payload(guarded.data() + 1, guarded.data() + 1 + bytes);
  EXPECT_EQ(payload, expected);
  EXPECT_TRUE(state.same(expected_state) && state.intact());
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(guarded[1 + bytes + i], 0xA5);
  EXPECT_TRUE(valid_natural(payload.data(), n) && scalar::valid_natural(payload.data(), n));
  return payload;
}

void check_decode(DType dtype, size_t n, const Octets& payload) {
  for (const DType type : {DType::kFloat32, DType::kFloat64}) {
    for (const double scale : {1.0, -0.3}) {
      Buffer sum = test::gradient(type, n, size_of(type), 5), expected = test::copy_of(sum, 0);
      decode_natural_add(payload.data(), n, scale, {sum.data(), type, n});
      scalar::decode_natural_add(payload.data(), n, scale, {expected.data(), type, n});
      EXPECT_TRUE(sum.same(expected) && sum.intact());
    }
  }
  const std::vector<const uint8_t*> messages(11, payload.data());
  for (const size_t count : {0, 1, 2, 3, 8, 11}) {
    Buffer mean(n * size_of(dtype), size_of(dtype)), expected(n * size_of(dtype), 0);
    decode_natural_mean(messages.data(), count, {mean.data(), dtype, n});
    scalar::decode_natural_mean(messages.data(), count, {expected.data(), dtype, n});
    EXPECT_TRUE(mean.same(expected) && mean.intact()) << count << " messages";
  }
}

TEST(NaturalSimd, EqualsOracle) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    uint64_t seed = 0;
    for (const Form form : {Form::kPlain, Form::kResidual, Form::kShifted}) {
      for (const DType dtype : kTypes) {
        for (const size_t n : kCounts) {
          SCOPED_TRACE(std::string(target) + " form " + std::to_string(static_cast<int>(form)) + " " + name_of(dtype) +
                       " n " + std::to_string(n));
          check_decode(dtype, n, check_encode(form, dtype, n, ++seed));
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

TEST(NaturalSimd, EqualsOracleOnEdges) {
  const uint32_t edges[] = {0u,          1u,          0x007FFFFFu, 0x00800000u, 0x00FFFFFFu, 0x3F800000u,
                            0x3FFFFFFFu, 0x7EFFFFFFu, 0x7F000000u, 0x7F7FFFFFu, 0x7F800000u, 0x7FC00000u};
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (const uint32_t edge : edges) {
      std::vector<float> x(512), state(512, 0.0f), expected_state(512, 0.0f);
      for (size_t i = 0; i < 512; ++i)
        x[i] = std::bit_cast<float>(i < 256 ? edge | uint32_t(i % 2) << 31 : 0xC0490FDBu);
      std::vector<uint8_t> out(natural_bytes(512)), expected(out.size());
      const ConstView view{x.data(), DType::kFloat32, 512};
      EXPECT_EQ(encode_natural(Form::kResidual, view, state.data(), kKey, 0, out.data()), edge < 0x7F000000u) << edge;
      scalar::encode_natural(Form::kResidual, view, expected_state.data(), kKey, 0, expected.data());
      EXPECT_EQ(out, expected) << edge;
      EXPECT_EQ(std::memcmp(state.data(), expected_state.data(), 2048), 0) << edge;
    }
  }
}

// Whether the addition carries, to the last bit: mantissas one below and at what the element's dither lets pass.
TEST(NaturalSimd, RoundsUpExactlyWhereTheDocumentSays) {
  constexpr size_t kCount = 256;
  for (const uint32_t more : {0u, 1u}) {
    std::vector<float> x(kCount);
    for (size_t i = 0; i < kCount; ++i) {
      const uint32_t r = scalar::dither_bits(kKey, i);
      x[i] = std::bit_cast<float>(0x3F800000u + ((65535u - r) << 7) + 63u + more);
    }
    std::vector<uint8_t> oracle(natural_bytes(kCount)), out(oracle.size());
    const ConstView view{x.data(), DType::kFloat32, kCount};
    scalar::encode_natural(Form::kPlain, view, nullptr, kKey, 0, oracle.data());
    encode_natural(Form::kPlain, view, nullptr, kKey, 0, out.data());
    for (size_t i = 0; i < kCount; ++i) EXPECT_TRUE(oracle[i] == 127 + more && out[i] == 127 + more) << i;
  }
}

TEST(NaturalSimd, RejectsWhatTheOracleRejects) {
  const size_t n = 300;
  const Buffer x = test::gradient(DType::kFloat32, n, 0, 3);
  Octets payload(natural_bytes(n));
  encode_natural(Form::kPlain, {x.data(), DType::kFloat32, n}, nullptr, kKey, 0, payload.data());
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    size_t rejected = 0;
    for (size_t at = 0; at < payload.size(); ++at) {
      for (const uint8_t value : {0x00, 0xFF, 0x01, 0x80}) {
        const uint8_t was = payload.data()[at];
        payload.data()[at] = value;
        const bool valid = valid_natural(payload.data(), n);
        EXPECT_EQ(valid, scalar::valid_natural(payload.data(), n)) << target << ' ' << at << ' ' << int{value};
        rejected += !valid;
        payload.data()[at] = was;
      }
    }
    EXPECT_GE(rejected, n);  // at least every exponent of 255
  }
}

}  // namespace
}  // namespace tsq::kernels
