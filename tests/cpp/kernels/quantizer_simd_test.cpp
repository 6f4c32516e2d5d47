// Every SIMD target gives the oracle's bytes, states and sums.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/payload.h"
#include "kernels/quantizer.h"

namespace tsq::kernels {
namespace {

using test::Buffer;

constexpr size_t kCounts[] = {0, 1, 31, 32, 33, 255, 256, 257, 511, 512, 513, 767, 769, 4095, 4097};
constexpr uint32_t kBlocks[] = {32, 64, 128, 256, 512, 1024, 2048, 4096};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};
constexpr Form kForms[] = {Form::kPlain, Form::kResidual, Form::kShifted};
constexpr Rounding kRoundings[] = {Rounding::kStochastic, Rounding::kNearest, Rounding::kFit, Rounding::kSign};
constexpr PhiloxKey kKey{0x12345678u, 0x9ABCDEF0u};

struct Case {
  QuantizerParams params;
  Form form;
  DType dtype;
  size_t n;
  uint64_t offset;
  bool specials;
};

// The oracle's results for one case.
struct Expected {
  Buffer x, state_before, state, payload;
  bool finite;
};

size_t skew(DType dtype, size_t n) { return n % 2 == 0 ? size_of(dtype) : 0; }

Expected expect(const Case& c, Buffer x, uint64_t seed) {
  Expected e;
  e.x = std::move(x);
  const DType state_type = state_dtype(c.dtype);
  e.state_before = test::gradient(state_type, c.n, size_of(state_type), seed + 1);
  e.state = test::copy_of(e.state_before, size_of(state_type));
  e.payload = Buffer(quantizer_bytes(c.n, c.params), 1);
  e.finite =
      scalar::quantize(c.params, c.form, {e.x.data(), c.dtype, c.n}, e.state.data(), kKey, c.offset, e.payload.data());
  return e;
}

Expected expect(const Case& c, uint64_t seed) {
  return expect(c, test::gradient(c.dtype, c.n, skew(c.dtype, c.n), seed, c.specials), seed);
}

void check_quantize(const Case& c, const Expected& e) {
  Buffer state = test::copy_of(e.state_before, size_of(state_dtype(c.dtype)));
  Buffer payload(e.payload.size(), 1);
  void* const state_data = c.form == Form::kPlain ? nullptr : state.data();
  EXPECT_EQ(quantize(c.params, c.form, {e.x.data(), c.dtype, c.n}, state_data, kKey, c.offset, payload.data()),
            e.finite);
  EXPECT_TRUE(payload.same(e.payload));
  EXPECT_TRUE(state.same(e.state));
  EXPECT_TRUE(payload.intact() && state.intact());
  EXPECT_TRUE(valid_payload(c.params, payload.data(), c.n));
}

void check_dequantize(const Case& c, const Expected& e) {
  for (const DType type : {DType::kFloat32, DType::kFloat64}) {
    for (const double scale : {1.0, -0.3}) {
      Buffer sum = test::gradient(type, c.n, size_of(type), 5), expected = test::copy_of(sum, 0);
      dequantize_add(c.params, e.payload.data(), c.n, scale, {sum.data(), type, c.n});
      scalar::dequantize_add(c.params, e.payload.data(), c.n, scale, {expected.data(), type, c.n});
      EXPECT_TRUE(sum.same(expected) && sum.intact());
    }
  }
  const uint8_t* const messages[11] = {e.payload.data(), e.payload.data(), e.payload.data(), e.payload.data(),
                                       e.payload.data(), e.payload.data(), e.payload.data(), e.payload.data(),
                                       e.payload.data(), e.payload.data(), e.payload.data()};
  for (const size_t count : {0, 1, 2, 3, 8, 11}) {
    Buffer mean(c.n * size_of(c.dtype), size_of(c.dtype)), expected(c.n * size_of(c.dtype), 0);
    dequantize_mean(c.params, messages, count, {mean.data(), c.dtype, c.n});
    scalar::dequantize_mean(c.params, messages, count, {expected.data(), c.dtype, c.n});
    EXPECT_TRUE(mean.same(expected) && mean.intact()) << count << " messages";
  }
}

void check(const Case& c, uint64_t seed) {
  const Expected e = expect(c, seed);
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    SCOPED_TRACE(std::string(target) + " " + test::describe(c.params, c.n) + " form " +
                 std::to_string(static_cast<int>(c.form)) + " " + name_of(c.dtype));
    check_quantize(c, e);
    if (seed % 5 == 0) check_dequantize(c, e);
    if (testing::Test::HasFailure()) return;
  }
}

class SimdTest : public testing::TestWithParam<int> {};

void check_all(int bits, bool bf16_scales) {
  uint64_t seed = 0;
  for (const Rounding rounding : kRoundings) {
    if (rounding == Rounding::kSign && bits != 1) continue;
    for (const Form form : kForms) {
      for (const DType dtype : kTypes) {
        for (const uint32_t block : kBlocks) {
          for (const size_t n : kCounts) {
            const QuantizerParams params{bits, block, rounding, n % 2 == 0 ? 1.0f : 0.7f, bf16_scales};
            constexpr uint64_t kGroups[3] = {0, 7, (uint64_t{1} << 36) + 1};  // the last: counters beyond 32 bits
            ++seed;
            check({params, form, dtype, n, kGroups[seed % 11 % 3] * params.group(), seed % 7 == 0}, seed);
            if (testing::Test::HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(SimdTest, EqualsOracle) { check_all(GetParam(), false); }
TEST_P(SimdTest, EqualsOracleWithBf16Scales) { check_all(GetParam(), true); }

TEST_P(SimdTest, EqualsOracleOnALongVector) {
  uint64_t seed = 4;
  for (const Rounding rounding : kRoundings) {
    if (rounding == Rounding::kSign && GetParam() != 1) continue;
    for (const DType dtype : kTypes) {
      const uint32_t block = kBlocks[static_cast<size_t>(seed) % 8];
      check({{GetParam(), block, rounding, 1.0f, seed % 2 == 1}, kForms[seed % 3], dtype, 100003, 0, false}, seed);
      ++seed;
      if (HasFailure()) return;
    }
  }
}

// Several blocks are encoded together: one that is hard, in each place, must leave the others as they are alone.
TEST_P(SimdTest, EqualsOracleBesideAHardBlock) {
  const size_t n = 1300;
  uint64_t seed = 0;
  for (const Rounding rounding : kRoundings) {
    if (rounding == Rounding::kSign && GetParam() != 1) continue;
    for (const uint32_t block : {32u, 256u, 512u}) {
      for (const double hard : {double(INFINITY), double(NAN), 0x1p121, 0x1p-149, 0.0}) {
        for (size_t at = 5; at < n; at += 256) {
          const Case c{{GetParam(), block, rounding, 1.0f}, kForms[++seed % 3], DType::kFloat32, n, 0, false};
          Buffer x = test::gradient(c.dtype, n, 4, seed);
          const size_t begin = at / block * block, end = std::min<size_t>(n, begin + block);
          for (size_t i = begin; i < end && hard < 1; ++i) test::store(c.dtype, x.data(), i, 0.0);
          test::store(c.dtype, x.data(), at, hard);
          const Expected e = expect(c, std::move(x), seed);
          for (const char* target : test::targets()) {
            const test::ForcedTarget forced(target);
            SCOPED_TRACE(std::string(target) + " " + test::describe(c.params, n) + " at " + std::to_string(at));
            check_quantize(c, e);
          }
          if (HasFailure()) return;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, SimdTest, testing::Range(1, 9));

TEST(SimdTargets, AreNamedAndForceable) {
  EXPECT_FALSE(test::targets().empty());
  for (const char* target : test::targets()) EXPECT_TRUE(force_simd_target(target)) << target;
  EXPECT_FALSE(force_simd_target("no such target"));
  EXPECT_TRUE(force_simd_target(nullptr));
}

// A slice that starts at a multiple of the group has the codes of the whole vector.
TEST(Slices, HaveTheCodesOfTheWhole) {
  for (const uint32_t block : {64u, 256u, 1024u}) {
    const QuantizerParams params{4, block, Rounding::kStochastic, 1.0f};
    const size_t n = 5 * 1024 + 77, cut = 2 * 1024;
    const Buffer x = test::gradient(DType::kFloat32, n, 0, 3);
    const ConstView view{x.data(), DType::kFloat32, n};
    Buffer whole(quantizer_bytes(n, 4, block), 0), parts(quantizer_bytes(n, 4, block), 0);
    quantize(params, Form::kPlain, view, nullptr, kKey, 0, whole.data());
    quantize(params, Form::kPlain, view.slice(0, cut), nullptr, kKey, 0, parts.data());
    quantize(params, Form::kPlain, view.slice(cut, n - cut), nullptr, kKey, cut,
             parts.data() + quantizer_bytes(cut, 4, block));
    EXPECT_TRUE(whole.same(parts));
    quantize(params, Form::kPlain, view.slice(cut, n - cut), nullptr, kKey, 0,
             parts.data() + quantizer_bytes(cut, 4, block));
    EXPECT_FALSE(whole.same(parts)) << "the dither does not depend on the offset";
  }
}

TEST(Scans, FindOneElement) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (const DType dtype : kTypes) {
      for (const size_t n : {size_t{1}, size_t{33}, size_t{4096}, size_t{20001}}) {
        Buffer zero(n * size_of(dtype), size_of(dtype));
        const ConstView view{zero.data(), dtype, n};
        EXPECT_TRUE(all_zero(view) && all_finite(view));
        for (const size_t i : {size_t{0}, n / 2, n - 1}) {
          for (const double v : {-0.0, 6e-8, -1.0, 65504.0, double(INFINITY), -double(INFINITY), double(NAN)}) {
            test::store(dtype, zero.data(), i, v);
            EXPECT_EQ(all_zero(view), v == 0) << v;
            EXPECT_EQ(all_finite(view), std::isfinite(v)) << v;
            EXPECT_EQ(all_ordinary(view), std::isfinite(v)) << v;
          }
          test::store(dtype, zero.data(), i, 0.0);
        }
      }
    }
    for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
      Buffer memory(9000 * size_of(dtype), size_of(dtype));
      const ConstView view{memory.data(), dtype, 9000};
      test::store(dtype, memory.data(), 4321, -0x1.FEp95);
      EXPECT_TRUE(all_ordinary(view));
      test::store(dtype, memory.data(), 4321, -0x1p96);
      EXPECT_TRUE(!all_ordinary(view) && all_finite(view));
    }
    std::vector<double> x(4000, -3.4028235677973366e38);  // rounds to float32's Inf; the number below it does not
    EXPECT_FALSE(all_finite({x.data(), DType::kFloat64, x.size()}));
    std::fill(x.begin(), x.end(), -3.4028235677973362e38);
    EXPECT_TRUE(all_finite({x.data(), DType::kFloat64, x.size()}));
  }
}

}  // namespace
}  // namespace tsq::kernels
