// UniformStep: what it sends for hard input, what it rejects.
#include <memory>
#include <random>

#include "compressors/uniform.h"
#include "compressors/uniform_segment.h"

namespace tsq {
namespace {

using test::data;
using test::decoded;
using test::encoded;
using test::Kind;
using test::Octets;
using test::Vector;

TEST(UniformStep, ZerosAndTinyOnesAreAnEmptySection) {
  const UniformStep c({.bits = 1.0, .step = {}, .stochastic = false});
  for (const double tiny : {0.0, -0.0, 0x1p-149, 0x1.FFFFFCp-127}) {
    Vector x(DType::kFloat32, 70'000), e(DType::kFloat32, 70'000);
    for (size_t i = 0; i < x.size(); ++i) x.set(i, tiny);
    Octets out(c.max_bytes(x.size(), DType::kFloat32));
    const auto sent = c.encode_residual(x.view(), e.view(), {}, out);
    EXPECT_TRUE(sent.finite && sent.bytes == 12 && sent.bytes == c.zero_bytes(x.size(), DType::kFloat32));
    out.resize(sent.bytes);
    EXPECT_EQ(out, Octets(12));
    EXPECT_EQ(test::max_difference(x.view(), e.view()), 0.0);
    EXPECT_NO_THROW(c.validate(out, x.size(), DType::kFloat32));
  }
  Vector lone(DType::kFloat32, 1'000'000);  // in no chunk of the sample
  lone.set(999'937, 3.0);
  const Octets out = encoded(c, lone);
  EXPECT_LT(out.size(), 4u + 4 * 16 + 200);
  EXPECT_TRUE(decoded(out, DType::kFloat32, lone.size()) == lone);
}

TEST(UniformStep, HugeAndSmallestElements) {
  for (const double size : {0x1p-126, 0x1p-120, 0x1p100, 0x1.FFFFFEp127}) {
    for (const bool stochastic : {false, true}) {
      for (const double bits : {0.1, 2.0, 12.0}) {
        const UniformStep c({.bits = bits, .step = {}, .stochastic = stochastic});
        Vector x(DType::kFloat32, 5000);
        for (size_t i = 0; i < x.size(); ++i) x.set(i, i % 3 == 0 ? 0 : size * (i % 2 ? 1 : -1) / double(1 + i % 7));
        const Vector m = decoded(encoded(c, x), DType::kFloat32, x.size());
        for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(std::isfinite(m[i]));
      }
    }
  }
}

TEST(UniformStep, LeavesTheStateOfWhatIsNotFinite) {
  for (const char* spec : {"UniformStep(bits=1)", "UniformStep(step=0.1)", "UniformStep(1, rounding='stochastic')"}) {
    const CompressorPtr c = parse_compressor(spec);
    for (const double bad : {double(INFINITY), -double(INFINITY), double(NAN)}) {
      for (const size_t n : {300, 65'536, 150'000}) {
        Vector x = test::random_vector(DType::kFloat32, n, 1), e = test::random_vector(DType::kFloat32, n, 2);
        const Vector before = e;
        x.set(n - 7, bad);
        for (const bool residual : {true, false}) {
          Octets out(c->max_bytes(n, DType::kFloat32));
          const auto sent = residual ? c->encode_residual(x.view(), e.view(), {}, out)
                                     : c->encode_shifted(x.view(), e.view(), {}, out);
          EXPECT_FALSE(sent.finite);
          out.resize(sent.bytes);
          EXPECT_EQ(out, Octets(c->zero_bytes(n, DType::kFloat32)));
          EXPECT_LE(test::max_difference(e.view(), before.view()), n > 65'536 ? 1e-5 : 0.0);
          e = before;
        }
      }
    }
  }
}

TEST(UniformStep, RejectsIllegalPayloads) {
  const UniformStep c({.bits = {}, .step = 1.0, .stochastic = false});
  Vector x(DType::kFloat32, 11);
  for (size_t i = 0; i < 11; ++i) x.set(i, double(i % 4) - 1);
  x.set(3, -40);
  const Octets good = encoded(c, x);
  const auto error = [&](const Octets& bytes, uint64_t n = 11) {
    return test::error_of<WireError>([&] { c.validate(bytes, n, DType::kFloat32); });
  };
  EXPECT_EQ(error(good), "");
  const auto changed = [&](size_t at, uint8_t value) {
    Octets bad = good;
    bad.at(at) = value;
    return error(bad);
  };
  EXPECT_TRUE(test::contains(changed(3, 0xFF), "a step of 0 or from"));
  EXPECT_TRUE(test::contains(changed(4, 1), "bytes: expected"));
  EXPECT_TRUE(test::contains(changed(good.size() - 1, 0x80), "escapes from 16 to 32767"));
  EXPECT_TRUE(test::contains(changed(good.size() - 2, 15), "escapes from 16 to 32767"));
  Octets bad = good;
  store<uint16_t>(&bad[8], uint16_t{0});
  EXPECT_TRUE(test::contains(error(bad), "masks"));
  bad = good;
  bad.resize(8);
  EXPECT_NE(error(bad), "");
  store<uint32_t>(&bad[0], 0);
  EXPECT_TRUE(test::contains(error(bad), "lengths of 0 in an empty section"));
  store<uint32_t>(&bad[4], 0);
  EXPECT_EQ(error(bad), "");
  bad.push_back(0);
  EXPECT_TRUE(test::contains(error(bad), "bytes: expected"));
  bad.resize(4);
  EXPECT_TRUE(test::contains(error(bad), "at least 4 for each of 1 segments"));
  EXPECT_NE(error({}), "");
  for (const uint64_t n : {uint64_t{0}, uint64_t{13}, uint64_t{10}, uint64_t{1} << 63, UINT64_MAX})
    EXPECT_NE(error(good, n), "") << n;
  for (size_t cut = 0; cut < good.size(); ++cut)
    EXPECT_NE(error(Octets(good.begin(), good.begin() + static_cast<ptrdiff_t>(cut))), "") << cut;
}

/// The document's example: 85 bits of states in 11 bytes, from byte 17 on.
TEST(UniformStep, ReadsStatesOfEveryLength) {
  const UniformStep c({.bits = {}, .step = 1.0, .stochastic = false});
  Vector x(DType::kFloat32, 6);
  x.set(0, 1);
  x.set(4, -2);
  x.set(5, 20);
  const Octets good = encoded(c, x);
  ASSERT_EQ(good.size(), 30u);
  const auto error = [&](Octets bytes) {
    store<uint32_t>(&bytes[4], static_cast<uint32_t>(bytes.size() - 8));
    return test::error_of<WireError>([&] { c.validate(bytes, 6, DType::kFloat32); });
  };
  EXPECT_EQ(error(good), "");
  for (int bit = 5; bit < 8; ++bit) {
    Octets bad = good;
    bad[27] = static_cast<uint8_t>(bad[27] | 1u << bit);
    EXPECT_TRUE(test::contains(error(bad), "padding of 0")) << bit;
  }
  for (size_t size = 17; size < 28; ++size)
    EXPECT_TRUE(
        test::contains(error(Octets(good.begin(), good.begin() + static_cast<ptrdiff_t>(size))), "bytes of states"))
        << size;
  Octets largest(good.begin(), good.begin() + 17);  // four states of 2^32 - 1: 4 bits of 15 and 31 of 1 each
  largest.resize(35, 0xFF);
  EXPECT_TRUE(test::contains(error(largest), "padding of 0"));
  largest.back() = 0x0F;
  EXPECT_NE(error(largest), "");
  EXPECT_FALSE(test::contains(error(largest), "states, ") || test::contains(error(largest), "padding"));
  largest.pop_back();
  EXPECT_TRUE(test::contains(error(largest), "18 bytes of states"));
}

/// Bits that belong to no element, in a segment that is otherwise what the encoder writes.
TEST(UniformStep, RejectsBitsWithoutAnElement) {
  const auto codes = std::make_unique<kernels::UniformCodes>(), read = std::make_unique<kernels::UniformCodes>();
  for (const size_t n : {6, 99, 8195}) {
    std::vector<float> x(n, 1.0f);
    ASSERT_TRUE(
        kernels::quantize_uniform({}, kernels::Form::kPlain, {x.data(), DType::kFloat32, n}, nullptr, 0, *codes));
    const auto error = [&](uint8_t& byte, unsigned bit) {
      byte = static_cast<uint8_t>(byte ^ 1u << bit);
      Octets bytes(max_segment_bytes(n));
      bytes.resize(write_segment(*codes, bytes.data()));
      byte = static_cast<uint8_t>(byte ^ 1u << bit);
      return test::error_of<WireError>([&] { read_segment(bytes, bytes.data() + bytes.size(), n, *read); });
    };
    uint8_t unused = 0;
    EXPECT_EQ(error(unused, 0), "");
    EXPECT_NE(error(codes->flags[n / 8], n % 8), "") << n;
    EXPECT_TRUE(test::contains(error(codes->signs[n / 8], n % 8), "no sign without an element")) << n;
    if (n < 60) {
      EXPECT_TRUE(test::contains(error(codes->signs[7], 7), "no sign without an element")) << n;
    }
  }
}

/// Whatever passes is read without a fault, and the values are finite.
TEST(UniformStep, SurvivesChangedBytes) {
  std::mt19937 random(3);
  for (const size_t n : {30, 9001}) {
    const UniformStep c({.bits = 1.5, .step = {}, .stochastic = false});
    const Octets good = encoded(c, data(Kind::kHeavy, n, 1));
    size_t accepted = 0;
    for (int trial = 0; trial < 4000; ++trial) {
      Octets bad = good;
      for (uint32_t k = random() % 3; k < 3; ++k)
        bad[random() % std::min<size_t>(bad.size(), 200)] ^= 1u << random() % 8;
      if (!test::error_of<WireError>([&] { c.validate(bad, n, DType::kFloat32); }).empty()) continue;
      ++accepted;
      const Vector m = decoded(bad, DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) ASSERT_TRUE(std::isfinite(m[i]));
    }
    EXPECT_GT(accepted, 0u);
  }
}

}  // namespace
}  // namespace tsq
