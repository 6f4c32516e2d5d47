// What dithering, natural dithering and casts have in common: the three forms, slices, conservation, hard input, SIMD
// targets, hostile bytes.
#include <gtest/gtest.h>

#include "compressors/error_feedback.h"
#include "compressors/message.h"
#include "compressors/registry.h"
#include "kernels/payload.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;
using Octets = std::vector<uint8_t>;

constexpr const char* kSpecs[] = {"Dithering(levels=1)",
                                  "Dithering(levels=7, norm='inf', block=32)",
                                  "Dithering(levels=300, block=64)",
                                  "Dithering(levels=32767, norm='inf', block=65536)",
                                  "NaturalDithering(levels=8)",
                                  "NaturalDithering(levels=30, norm='inf', block=512)",
                                  "NaturalDithering(levels=1, block=128)",
                                  "Cast(dtype='fp16')",
                                  "Cast(dtype='bf16')",
                                  "Cast(dtype='fp8')",
                                  "Cast(dtype='fp8_e5m2')"};

Octets encoded(const Compressor& c, const Vector& x, const EncodeKey& key) {
  Octets out(c.max_bytes(x.size(), x.view().dtype));
  const auto sent = c.encode(x.view(), key, out);
  EXPECT_TRUE(sent.finite && sent.bytes <= out.size());
  EXPECT_TRUE(!c.has_fixed_size() || sent.bytes == out.size());
  out.resize(sent.bytes);
  EXPECT_NO_THROW(c.validate(out, x.size(), x.view().dtype));
  return out;
}

Vector decoded(const Compressor& c, Bytes payload, DType as, size_t n) {
  const Vector out(as, n);
  c.decode_add(payload, as, 1.0, out.view());
  return out;
}

class Tiled : public testing::TestWithParam<std::tuple<const char*, DType>> {
 protected:
  const CompressorPtr c = parse_compressor(std::get<0>(GetParam()));
  const DType dtype = std::get<1>(GetParam()), state = state_dtype(dtype);
};
INSTANTIATE_TEST_SUITE_P(All, Tiled, testing::Combine(testing::ValuesIn(kSpecs), testing::ValuesIn(test::kAllDTypes)));

TEST_P(Tiled, ReadsBackItsSpecAndItsFormat) {
  EXPECT_EQ(c->spec(), std::get<0>(GetParam()));
  EXPECT_TRUE(decoder_for(c->format())->format() == c->format());
  EXPECT_TRUE(c->as_contractive()->format() == c->format() && c->as_unbiased()->format() == c->format());
  EXPECT_EQ(c->as_contractive()->as_unbiased()->spec(), c->spec());
}

TEST_P(Tiled, FusedFormsAreTheComposedOnes) {
  const auto round = [&](double v) {
    return state == DType::kFloat64 ? v : static_cast<double>(static_cast<float>(v));
  };
  for (const size_t n : {0, 1, 31, 255, 256, 257, 5000}) {
    const EncodeKey key{philox_key({.seed = n}), 1u << 16};
    const Vector x = test::random_vector(dtype, n, 1), s = test::random_vector(state, n, 2);
    for (const bool residual : {true, false}) {
      Vector input(state, n), next(s), expected(state, n);
      for (size_t i = 0; i < n; ++i) input.set(i, round(residual ? s[i] + x[i] : x[i] - s[i]));
      Octets fused(c->max_bytes(n, dtype));
      const auto sent = residual ? c->encode_residual(x.view(), next.view(), key, fused)
                                 : c->encode_shifted(x.view(), next.view(), key, fused);
      ASSERT_TRUE(sent.finite);
      fused.resize(sent.bytes);
      ASSERT_EQ(fused, encoded(*c, input, key)) << n;
      const Vector m = decoded(*c, fused, state, n);
      for (size_t i = 0; i < n; ++i) expected.set(i, round(residual ? input[i] - m[i] : s[i] + m[i]));
      ASSERT_EQ(test::max_difference(next.view(), expected.view()), 0.0) << n;
    }
  }
}

TEST_P(Tiled, KeepsWhatItDoesNotSend) {
  const auto [given, accounted, largest] = test::balance_of_error_feedback(*c->as_contractive(), dtype);
  for (size_t i = 0; i < given.size(); ++i) ASSERT_NEAR(accounted[i], given[i], 1e-5 * largest) << i;
}

TEST_P(Tiled, MeanIsTheMeanOfTheValues) {
  const size_t n = 70'001;
  std::vector<Octets> payloads;
  std::vector<Bytes> views;
  Vector expected(state, n);
  for (uint64_t rank = 0; rank < 3; ++rank)
    payloads.push_back(encoded(*c, test::random_vector(dtype, n, rank), {philox_key({.seed = rank}), 0}));
  for (const Octets& payload : payloads) {
    views.emplace_back(payload);
    c->decode_add(payload, dtype, 1.0, expected.view());
  }
  const Vector out(dtype, n);
  c->decode_mean(views, out.view());
  Vector rounded(dtype, n);
  for (size_t i = 0; i < n; ++i)
    rounded.set(i, state == DType::kFloat64 ? expected[i] / 3 : double(float(expected[i]) / 3.0f));
  EXPECT_TRUE(out == rounded);
  c->decode_mean({}, out.view());
  EXPECT_EQ(test::max_abs(out.view()), 0.0);
  Vector sum(DType::kFloat64, n), one = decoded(*c, payloads[0], DType::kFloat64, n);
  c->decode_add(payloads[0], dtype, -0.5, sum.view());
  for (size_t i = 0; i < n; ++i) ASSERT_EQ(sum[i], -0.5 * one[i]);
}

TEST_P(Tiled, BlocksBelongToTheParameter) {
  const uint32_t block = c->format().codec == wire::Codec::kCast ? 256 : c->format().block;
  if (block == 0 || block > 1024) return;  // the norm is the slice's own
  const size_t n = 2500, step = 1024;
  const Vector x = test::random_vector(dtype, n, 9);
  const PhiloxKey key = philox_key({.seed = 1});
  const Vector whole = decoded(*c, encoded(*c, x, {key, 0}), state, n);
  ASSERT_EQ(step % c->granularity(), 0u);
  for (size_t begin = 0; begin < n; begin += step) {
    const size_t count = std::min(n - begin, step);
    const Vector part(ConstView(x.view()).slice(begin, count));
    const Vector values = decoded(*c, encoded(*c, part, {key, begin}), state, count);
    EXPECT_EQ(test::max_difference(values.view(), whole.view().slice(begin, count)), 0.0);
  }
}

TEST_P(Tiled, NothingIsDoneWithInfAndNan) {
  const size_t n = 600;
  for (const double bad : {double(INFINITY), -double(INFINITY), double(NAN)}) {
    for (const size_t at : {0, 299, 599}) {
      Vector x = test::random_vector(dtype, n, 1);
      x.set(at, bad);
      const Vector before = test::random_vector(state, n, 2);
      for (const int form : {0, 1, 2}) {
        Vector s(before);
        Octets out(c->max_bytes(n, dtype), 0xEE);
        const EncodeKey key{};
        const auto sent = form == 0   ? c->encode(x.view(), key, out)
                          : form == 1 ? c->encode_residual(x.view(), s.view(), key, out)
                                      : c->encode_shifted(x.view(), s.view(), key, out);
        EXPECT_FALSE(sent.finite);
        EXPECT_EQ(sent.bytes, c->zero_bytes(n, dtype));
        EXPECT_TRUE(std::all_of(out.begin(), out.begin() + ptrdiff_t(sent.bytes), [](uint8_t b) { return b == 0; }));
        EXPECT_TRUE(s == before);
      }
    }
  }
}

TEST_P(Tiled, ZerosOfTheirLengthAreZeros) {
  for (const size_t n : {0, 1, 255, 256, 257, 70'000}) {
    Vector zero(dtype, n);
    for (size_t i = 0; i < n; i += 2) zero.set(i, -0.0);
    const Octets zeros(c->zero_bytes(n, dtype));
    EXPECT_NO_THROW(c->validate(zeros, n, dtype));
    EXPECT_EQ(test::max_abs(decoded(*c, zeros, state, n).view()), 0.0);
    EXPECT_EQ(test::max_abs(decoded(*c, encoded(*c, zero, {}), state, n).view()), 0.0);
  }
}

TEST_P(Tiled, EveryTargetGivesTheSameBytesAndStates) {
  const std::vector<const char*> targets = test::targets();
  for (const size_t n : {1, 33, 256, 1000, 70'000}) {
    const Vector x = test::random_vector(dtype, n, n), before = test::random_vector(state, n, n + 1);
    Octets first;
    Vector first_state;
    for (const char* target : targets) {
      const test::ForcedTarget forced(target);
      Vector s(before);
      Octets out(c->max_bytes(n, dtype));
      out.resize(c->encode_residual(x.view(), s.view(), {philox_key({.seed = 4}), 512}, out).bytes);
      if (first.empty()) {
        first = out;
        first_state = s;
      }
      ASSERT_EQ(out, first) << target;
      ASSERT_TRUE(s == first_state) << target;
    }
  }
}

TEST_P(Tiled, HostileBytesAreRejectedOrFinite) {
  const size_t n = 300;
  const Octets good = encoded(*c, test::random_vector(dtype, n, 3), {});
  size_t rejected = 0;
  const auto take = [&](const Octets& bytes) {
    try {
      c->validate(bytes, n, dtype);
    } catch (const WireError&) {
      ++rejected;
      return;
    }
    const Vector values = decoded(*c, bytes, DType::kFloat32, n);
    for (size_t i = 0; i < n; ++i) ASSERT_TRUE(std::isfinite(values[i]));
  };
  for (size_t at = 0; at < good.size(); ++at) {
    for (const uint8_t mask : {0x01, 0x80, 0xFF, 0x7F, 0x10}) {
      Octets bad = good;
      bad[at] ^= mask;
      take(bad);
    }
    Octets bad = good;
    bad[at] = 0xFF;
    take(bad);
  }
  for (size_t size = 0; size < good.size(); ++size) {
    const Octets cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_THROW(c->validate(cut, n, dtype), WireError) << size;
  }
  EXPECT_GT(rejected, 0u);
  for (const uint64_t other : {uint64_t{0}, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 255})
    EXPECT_THROW(c->validate(good, other, dtype), WireError) << other;
}

TEST(TiledScales, AreRejectedWhereAValueWouldOverflow) {
  const struct {
    const char* spec;
    float top;  // the largest legal multiple
  } cases[] = {{"Dithering(levels=5)", 7},
               {"NaturalDithering(levels=4)", 64},
               {"Cast('fp8')", 448},
               {"Cast('fp8_e5m2')", 57344}};
  for (const auto& given : cases) {
    const CompressorPtr c = parse_compressor(given.spec);
    Octets bytes = encoded(*c, test::random_vector(DType::kFloat32, 100, 3), {});
    const auto legal = [&](float scale) {
      store<float>(bytes.data(), scale);
      return test::error_of<WireError>([&] { c->validate(bytes, 100, DType::kFloat32); }).empty();
    };
    const float cap = 0x1.FFFFFp127f / given.top;
    EXPECT_TRUE(legal(cap)) << given.spec;
    const Vector values = decoded(*c, bytes, DType::kFloat32, 100);
    EXPECT_TRUE(std::isfinite(test::max_abs(values.view())));
    for (const float bad : {std::nextafter(cap, INFINITY), INFINITY, NAN, -1.0f, -0.0f, 0.0f})  // 0: with levels
      EXPECT_FALSE(legal(bad)) << given.spec << ' ' << bad;
  }
}

}  // namespace
}  // namespace tsq
