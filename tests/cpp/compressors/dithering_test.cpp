// Dithering and natural dithering: constants and who attains them, their maps, sizes. Independence of ranks:
// independence_test.cpp.
#include "compressors/dithering.h"

#include <gtest/gtest.h>

#include "compressors/registry.h"
#include "vectors.h"
#include "wire/levels.h"

namespace tsq {
namespace {

using test::Vector;

double norm_squared(const Vector& x) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * x[i];
  return sum;
}

struct Statistics {
  double variance;    // E|C(x) - x|^2 / |x|^2
  double worst_bias;  // the largest |mean - x|, in standard deviations of the mean
};

Statistics measure(const Compressor& c, const Vector& x, size_t draws, double factor = 1.0) {
  const size_t n = x.size();
  const auto& config = dynamic_cast<const DitheredLevels&>(c).config();
  const auto grid = c.format().codec == wire::Codec::kDithering ? kernels::Grid::kUniform : kernels::Grid::kPowers;
  const double unit = std::sqrt(norm_squared(x)) / kernels::units_of_top(grid, config.levels);  // at least
  std::vector<double> sum(n), squares(n);
  std::vector<uint8_t> out(c.max_bytes(n, DType::kFloat32));
  for (uint64_t step = 0; step < draws; ++step) {
    const auto sent = c.encode(x.view(), {philox_key({.seed = 11, .step = step}), 0}, out);
    const Vector m(DType::kFloat64, n);
    c.decode_add(Bytes(out).first(sent.bytes), DType::kFloat32, 1.0, m.view());
    for (size_t i = 0; i < n; ++i) {
      const double error = m[i] - x[i];
      sum[i] += m[i] - factor * x[i];
      squares[i] += error * error;
    }
  }
  Statistics out_of{0, 0};
  const double count = static_cast<double>(draws), norm = std::sqrt(norm_squared(x));
  for (size_t i = 0; i < n; ++i) {
    out_of.variance += squares[i] / count / (norm * norm);
    // An element that is seldom sent may never have been: then what is known of its variance, |x| (unit - |x|).
    const double seldom = std::abs(x[i]) < unit / 50 ? count * unit * std::abs(x[i]) : 0;
    const double deviation = std::sqrt(std::max(squares[i], seldom)) / count + 1e-6 * norm / std::sqrt(double(n));
    out_of.worst_bias = std::max(out_of.worst_bias, std::abs(sum[i]) / count / deviation);
  }
  return out_of;
}

Vector constant(size_t n, double value) {
  Vector x(DType::kFloat32, n);
  for (size_t i = 0; i < n; ++i) x.set(i, i % 2 ? -value : value);
  return x;
}

CompressorPtr make(const std::string& spec) { return parse_compressor(spec); }

TEST(Dithering, HasTheConstantsOfTheLiterature) {
  const auto omega = [](const std::string& spec, size_t n) { return *make(spec)->class_of(n).omega; };
  EXPECT_DOUBLE_EQ(omega("Dithering(4)", 1 << 16), 256.0 / 4 - 1);
  EXPECT_DOUBLE_EQ(omega("Dithering(128)", 1 << 16), 1.0);
  EXPECT_DOUBLE_EQ(omega("Dithering(512)", 1 << 16), 65536.0 / (4 * 512 * 512));
  EXPECT_DOUBLE_EQ(omega("Dithering(1, 'inf')", 256), 7.5);
  EXPECT_DOUBLE_EQ(omega("Dithering(7, 'inf', 256)", 1 << 20), *make("Quantizer(4)")->class_of(1 << 20).omega);
  EXPECT_DOUBLE_EQ(omega("Dithering(4, block=1024)", 1 << 16), 7.0);
  EXPECT_DOUBLE_EQ(omega("Dithering(4, block=1024)", 256), 3.0);
  EXPECT_DOUBLE_EQ(omega("NaturalDithering(9)", 1 << 16), 0.125 + 1);
  EXPECT_DOUBLE_EQ(omega("NaturalDithering(13)", 1 << 16), 0.125 + 1.0 / 256);
  EXPECT_EQ(omega("Dithering(3)", 1), 0);
  EXPECT_FALSE(make("Dithering(4)")->class_of(1 << 16).alpha);
  EXPECT_DOUBLE_EQ(*make("Dithering(4)")->as_contractive()->class_of(1 << 16).alpha, 1.0 / 64);
  EXPECT_DOUBLE_EQ(*make("Dithering(512)")->as_contractive()->class_of(1 << 16).alpha, 15.0 / 16);
}

TEST(Dithering, WorstVectorsAttainTheConstants) {
  const struct {
    const char* spec;
    size_t d;
  } equal[] = {{"Dithering(1)", 256}, {"Dithering(4)", 256}, {"Dithering(8)", 256}, {"Dithering(24)", 256}};
  for (const auto& c : equal) {  // all entries alike: t = s / sqrt(d), or 3/2
    const auto s = measure(*make(c.spec), constant(c.d, 0.3), 2000);
    EXPECT_NEAR(s.variance / *make(c.spec)->class_of(c.d).omega, 1.0, 0.02) << c.spec;
  }
  for (const int s : {1, 3, 15}) {  // one maximal entry, all others at a fraction t of the first level
    const std::string spec = concat("Dithering(", s, ", 'inf')");
    const double d = 256, t = 1 / (1 + std::sqrt(1 + (d - 1) / (s * s)));
    Vector x = constant(256, t / s);
    x.set(100, 1.0);
    const auto measured = measure(*make(spec), x, 4000);
    EXPECT_NEAR(measured.variance / *make(spec)->class_of(256).omega, 1.0, 0.02) << spec;
  }
  const Vector x = constant(1024, 0x1p-5 * 0x1p-2);  // 1/4 of the lowest of 3 levels 1/8... : t(1-t) at g = 8
  EXPECT_LE(measure(*make("NaturalDithering(3)"), x, 500).variance, *make("NaturalDithering(3)")->class_of(1024).omega);
}

TEST(Dithering, IsUnbiasedWithinItsVariance) {
  for (const char* spec :
       {"Dithering(1)", "Dithering(5)", "Dithering(200)", "Dithering(20000)", "Dithering(3, 'inf')",
        "Dithering(2, 2, 32)", "Dithering(1, 'inf', 64)", "NaturalDithering(1)", "NaturalDithering(3)",
        "NaturalDithering(8, 'inf')", "NaturalDithering(30)", "NaturalDithering(5, 2, 128)"}) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const size_t n = std::vector<size_t>{400, 32, 257}[seed];
      const Vector x = test::random_vector(DType::kFloat32, n, seed);
      const CompressorPtr c = make(spec);
      const auto s = measure(*c, x, 3000);
      EXPECT_LE(s.variance, *c->class_of(n).omega * 1.03 + 1e-9) << spec << ' ' << n;
      EXPECT_LT(s.worst_bias, 5.5) << spec << ' ' << n;
      const CompressorPtr contractive = c->as_contractive();
      EXPECT_LE(measure(*contractive, x, 300).variance, (1 - *contractive->class_of(n).alpha) * 1.05 + 1e-9) << spec;
    }
  }
}

TEST(Dithering, ShrinksOnlyWhereOmegaIsAtLeastOne) {
  const Vector x = constant(256, 1.0);
  const double omega = *make("Dithering(2)")->class_of(256).omega;
  const auto s = measure(*make("Dithering(2)")->as_contractive(), x, 3000, 1 / (1 + omega));
  EXPECT_LT(s.worst_bias, 5.5);
  EXPECT_NEAR(s.variance, 1 - 1 / (1 + omega), 0.02);
  EXPECT_LT(measure(*make("Dithering(20)")->as_contractive(), x, 3000).worst_bias, 5.5);
}

// The neighbours of |x| / N are the only values.
TEST(Dithering, SendsTheNeighbouringLevels) {
  const size_t n = 512;
  const Vector x = test::random_vector(DType::kFloat32, n, 5);
  const double norm = std::sqrt(norm_squared(x));
  std::vector<uint8_t> out(4096);
  for (const int s : {1, 6, 40}) {
    const auto sent = make(concat("Dithering(", s, ")"))->encode(x.view(), {philox_key({}), 0}, out);
    const Vector m(DType::kFloat64, n);
    make(concat("Dithering(", s, ")"))->decode_add(Bytes(out).first(sent.bytes), DType::kFloat32, 1, m.view());
    for (size_t i = 0; i < n; ++i) {
      const double z = x[i] / norm * s, level = m[i] / norm * s;
      ASSERT_NEAR(level, std::round(level), 1e-4);
      ASSERT_LT(std::abs(level - z), 1 + 1e-4);
      ASSERT_GE(level * z, 0.0);
    }
  }
  const CompressorPtr natural = make("NaturalDithering(6)");
  const auto sent = natural->encode(x.view(), {philox_key({}), 0}, out);
  const Vector m(DType::kFloat64, n);
  natural->decode_add(Bytes(out).first(sent.bytes), DType::kFloat32, 1, m.view());
  for (size_t i = 0; i < n; ++i) {
    const double y = std::abs(x[i]) / norm, level = std::abs(m[i]) / norm;
    if (level == 0) {
      ASSERT_LT(y, 0x1p-5);
      continue;
    }
    ASSERT_NEAR(std::log2(level), std::round(std::log2(level)), 1e-5);
    ASSERT_GE(level, 0x1p-5 * (1 - 1e-5));
    ASSERT_LT(std::max(level, y) / std::max(std::min(level, y), y < 0x1p-5 ? 0x1p-5 : 0), 2 * (1 + 1e-5));
  }
}

TEST(Dithering, TinyAndHugeBlocks) {
  Vector x(DType::kFloat32, 96);
  for (size_t i = 0; i < 32; ++i) {
    x.set(i, 0x1p-100);
    x.set(32 + i, i == 3 ? 0x1p-96 : 0.0);
    x.set(64 + i, i % 2 ? 0x1.FFFFFEp127 : -0x1p127);
  }
  for (const char* spec : {"Dithering(100, block=32)", "Dithering(1, 'inf', 32)", "NaturalDithering(30, 2, 32)",
                           "NaturalDithering(4, 'inf', 32)"}) {
    const CompressorPtr c = make(spec);
    std::vector<uint8_t> out(c->max_bytes(96, DType::kFloat32));
    const auto sent = c->encode(x.view(), {philox_key({}), 0}, out);
    ASSERT_TRUE(sent.finite);
    ASSERT_NO_THROW(c->validate(Bytes(out).first(sent.bytes), 96, DType::kFloat32)) << spec;
    const Vector m(DType::kFloat32, 96);
    c->decode_add(Bytes(out).first(sent.bytes), DType::kFloat32, 1, m.view());
    for (size_t i = 0; i < 32; ++i) {
      EXPECT_EQ(m[i], 0) << spec;
      EXPECT_NEAR(m[32 + i], i == 3 ? 0x1p-96 : 0.0, 0x1p-116) << spec;
      EXPECT_TRUE(std::isfinite(m[64 + i])) << spec;
    }
  }
}

// Real bytes beside what a code for independent levels cannot beat; figures in docs/algorithms.md come from here.
TEST(Dithering, CostsLittleMoreThanTheEntropyWhenSparse) {
  const size_t n = 1 << 18;
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  Vector x(DType::kFloat32, n);
  for (size_t i = 0; i < n; ++i) x.set(i, normal(random));
  for (const int s : {1, 8, 64, 512, 4096}) {
    const CompressorPtr c = make(concat("Dithering(", s, ")"));
    std::vector<uint8_t> out(c->max_bytes(n, DType::kFloat32));
    const auto sent = c->encode(x.view(), {philox_key({}), 0}, out);
    wire::LevelReader reader(Bytes(out).first(sent.bytes).subspan(4), n, c->format().bits);
    std::vector<int16_t> levels(n);
    for (size_t i = 0; i < n; i += wire::kLevelSegment) ASSERT_TRUE(reader.next(levels.data() + i));
    const double bits = 8.0 * double(sent.bytes), entropy = wire::entropy_bits(levels);
    const double stream = 32.0 + double(wire::elias_bits(levels)), wide = double(n) * c->format().bits;
    std::printf("s = %4d: %.4f bits per element; entropy %.4f, one Elias stream %.4f, packed %d; expected_bits %.4f\n",
                s, bits / double(n), entropy / double(n), stream / double(n), c->format().bits,
                c->expected_bits(n, DType::kFloat32) / double(n));
    EXPECT_GE(bits, entropy);
    EXPECT_LE(bits, 1.6 * entropy + 8 * 60) << s;
    EXPECT_LE(bits, std::min(stream + 8 * 16 + 200, wide + 8 * 64)) << s;  // heads, and gaps begun anew four times
    EXPECT_NEAR(c->expected_bits(n, DType::kFloat32) / bits, 1.0, 0.35) << s;
  }
}

}  // namespace
}  // namespace tsq
