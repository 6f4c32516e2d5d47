// Uniform steps: every SIMD target gives the oracle's streams, states, words, sums and verdicts.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "compressors/uniform_segment.h"
#include "kernels/payload.h"
#include "kernels/uniform_step.h"

namespace tsq::kernels {
namespace {

using test::Buffer;
using Octets = std::vector<uint8_t>;

constexpr size_t kCounts[] = {0, 1, 3, 31, 63, 64, 65, 255, 256, 257, 511, 4097, 8191, 8192, 20'003, 65'535, 65'536};
constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};
constexpr PhiloxKey kKey{0x12345678u, 0x9ABCDEF0u};

using Codes = std::unique_ptr<UniformCodes>;

/// Garbage everywhere: what a kernel does not write differs.
Codes fresh(uint8_t fill) {
  Codes codes = std::make_unique<UniformCodes>();
  std::memset(static_cast<void*>(codes.get()), fill, sizeof(UniformCodes));
  return codes;
}

void expect_same(const UniformCodes& a, const UniformCodes& b) {
  ASSERT_TRUE(a.numel == b.numel && a.nonzeros == b.nonzeros && a.escapes == b.escapes);
  EXPECT_EQ(std::memcmp(a.flags, b.flags, (a.numel + 7) / 8), 0);
  EXPECT_EQ(std::memcmp(a.magnitudes, b.magnitudes, a.nonzeros), 0);
  EXPECT_EQ(std::memcmp(a.signs, b.signs, std::max<size_t>((a.nonzeros + 7) / 8, 64)), 0);
  EXPECT_EQ(std::memcmp(a.escaped, b.escaped, 2 * a.escapes), 0);
}

/// The integers of a gradient, compared with the oracle's.
Codes check_quantize(const UniformGrid& grid, Form form, DType dtype, size_t n, uint64_t seed) {
  const Buffer x = test::gradient(dtype, n, size_of(dtype), seed, seed % 5 == 0);
  const DType state_type = state_dtype(dtype);
  const Buffer before = test::gradient(state_type, n, size_of(state_type), seed + 1);
  Buffer state = test::copy_of(before, size_of(state_type)), expected_state = test::copy_of(before, 0);
  const uint64_t offset = seed % 3 == 0 ? (uint64_t{1} << 36) + 256 : seed % 3 * 256;
  const ConstView view{x.data(), dtype, n};
  Codes codes = fresh(0xA5), expected = fresh(0x5A);
  const bool plain = form == Form::kPlain;
  const bool finite = quantize_uniform(grid, form, view, plain ? nullptr : state.data(), offset, *codes);
  EXPECT_EQ(finite, scalar::quantize_uniform(grid, form, view, expected_state.data(), offset, *expected));
  EXPECT_TRUE(state.same(expected_state) && state.intact());
  if (!finite) {
    EXPECT_TRUE(state.same(before));
    return nullptr;
  }
  expect_same(*codes, *expected);
  return codes;
}

void check_add(const UniformCodes& codes, float step) {
  for (const DType type : {DType::kFloat32, DType::kFloat64}) {
    for (const double scale : {1.0, -0.3}) {
      Buffer sum = test::gradient(type, codes.numel, size_of(type), 5), expected = test::copy_of(sum, 0);
      add_uniform(codes, step, scale, {sum.data(), type, codes.numel});
      scalar::add_uniform(codes, step, scale, {expected.data(), type, codes.numel});
      EXPECT_TRUE(sum.same(expected) && sum.intact()) << name_of(type) << ' ' << scale;
    }
  }
}

void check_coder(const UniformCodes& codes) {
  const UniformCounts counts = scalar::count_uniform(codes), same = count_uniform(codes);
  EXPECT_TRUE(std::ranges::equal(same.flags, counts.flags) && std::ranges::equal(same.magnitudes, counts.magnitudes));
  if (codes.nonzeros == 0) return;
  const RansTable flags = make_rans_table(counts.flags), magnitudes = make_rans_table(counts.magnitudes);
  const size_t lanes = rans_lanes(codes.numel), room = codes.groups() + codes.nonzeros + 8;
  uint32_t states[kRansLanes], expected_states[kRansLanes];
  for (size_t l = 0; l < lanes; ++l) states[l] = expected_states[l] = kRansLow + static_cast<uint32_t>(l * 1999);
  std::vector<uint16_t> words(room), expected(room);
  uint16_t* const end = words.data() + room;
  uint16_t* const first = encode_rans(codes, flags, magnitudes, states, end);
  uint16_t* const expected_end = expected.data() + room;
  uint16_t* const expected_first = scalar::encode_rans(codes, flags, magnitudes, expected_states, expected_end);
  ASSERT_EQ(end - first, expected_end - expected_first);
  EXPECT_TRUE(std::equal(first, end, expected_first) && std::equal(states, states + lanes, expected_states));

  const auto* const from = reinterpret_cast<const uint8_t*>(first);
  const Octets exact(from, reinterpret_cast<const uint8_t*>(end));  // nothing behind the last word
  const size_t bytes = exact.size();
  Codes decoded = fresh(0xA5);
  decoded->numel = codes.numel;
  const uint8_t* const stop = decode_rans(flags, magnitudes, states, exact.data(), exact.data() + bytes, *decoded);
  EXPECT_EQ(stop, exact.data() + bytes);
  EXPECT_EQ(decoded->nonzeros, codes.nonzeros);
  EXPECT_EQ(std::memcmp(decoded->flags, codes.flags, (codes.numel + 7) / 8), 0);
  EXPECT_EQ(std::memcmp(decoded->magnitudes, codes.magnitudes, codes.nonzeros), 0);
  for (size_t l = 0; l < lanes; ++l) EXPECT_EQ(states[l], kRansLow + l * 1999);
  if (bytes != 0) {
    EXPECT_EQ(decode_rans(flags, magnitudes, expected_states, exact.data(), exact.data() + bytes - 2, *decoded),
              nullptr);
  }
}

TEST(UniformSimd, EqualsOracle) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    uint64_t seed = 0;
    for (const Form form : {Form::kPlain, Form::kResidual, Form::kShifted}) {
      for (const DType dtype : kTypes) {
        for (const size_t n : kCounts) {
          for (const float step : {0.5f, 0x1p-5f, 0x1.8p-9f}) {
            UniformGrid grid{.step = step, .inverse = 1 / step, .stochastic = ++seed % 2 == 0, .key = kKey};
            if (seed % 11 == 0) grid.inverse = 0;
            SCOPED_TRACE(std::string(target) + " form " + std::to_string(static_cast<int>(form)) + " " +
                         name_of(dtype) + " n " + std::to_string(n) + " seed " + std::to_string(seed));
            const Codes codes = check_quantize(grid, form, dtype, n, seed);
            if (codes != nullptr) {
              check_add(*codes, step);
              check_coder(*codes);
            }
            if (testing::Test::HasFailure()) return;
          }
        }
      }
    }
  }
}

/// Tables with holes, lone symbols and rare ones, and words that no encoder wrote.
TEST(UniformSimd, DecodesAnyWordsByAnyTableAsTheOracle) {
  std::mt19937 random(6);
  for (int trial = 0; trial < 60; ++trial) {
    UniformCounts counts{};
    for (uint32_t* const row : {counts.flags, counts.magnitudes}) {
      for (size_t s = 0; s < 16; ++s) row[s] = random() % 3 == 0 ? 1 + random() % (random() % 2 == 0 ? 9 : 20'000) : 0;
      if (std::count(row, row + 16, 0u) == 16) row[random() % 16] = 1;
    }
    const RansTable flags = make_rans_table(counts.flags), magnitudes = make_rans_table(counts.magnitudes);
    Octets words(trial % 4 == 0 ? 999 : 60'000);
    for (uint8_t& byte : words) byte = static_cast<uint8_t>(random());
    uint32_t before[kRansLanes];
    for (uint32_t& x : before) x = std::max(static_cast<uint32_t>(random()), kRansLow);
    const auto decode = [&](auto decoder, UniformCodes& codes, uint32_t* states) {
      std::copy_n(before, kRansLanes, states);
      codes.numel = trial % 2 == 0 ? 8192 : 9005;
      return decoder(flags, magnitudes, states, words.data(), words.data() + words.size(), codes);
    };
    uint32_t states[kRansLanes], expected_states[kRansLanes];
    const Codes expected = fresh(0);
    const uint8_t* const stop = decode(scalar::decode_rans, *expected, expected_states);
    for (const char* target : test::targets()) {
      const test::ForcedTarget forced(target);
      const Codes codes = fresh(0);
      ASSERT_EQ(decode(decode_rans, *codes, states), stop) << target << ' ' << trial;
      if (stop == nullptr) continue;
      ASSERT_TRUE(std::equal(states, states + kRansLanes, expected_states)) << target << ' ' << trial;
      ASSERT_EQ(codes->nonzeros, expected->nonzeros);
      ASSERT_EQ(std::memcmp(codes->flags, expected->flags, (codes->numel + 7) / 8), 0) << target << ' ' << trial;
      ASSERT_EQ(std::memcmp(codes->magnitudes, expected->magnitudes, codes->nonzeros), 0) << target << ' ' << trial;
    }
  }
}

TEST(UniformSimd, RoundsHalvesToEvenAndClampsAlike) {
  const float edges[] = {0.5f,     0x1.000002p-1f, 1.5f,    2.5f,    15.5f, 16.5f, 0x1.EFFFFEp3f,
                         32766.5f, 32767.5f,       40000.f, 0x1p30f, 1e38f, -0.0f, 1e-45f};
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    std::vector<float> x;
    for (size_t i = 0; i < 600; ++i) x.push_back(edges[i % std::size(edges)] * (i % 3 == 0 ? -1.0f : 1.0f));
    for (const float step : {1.0f, 0x1p-126f, 0x1p112f}) {
      Codes codes = fresh(1), expected = fresh(2);
      const UniformGrid grid{.step = step, .inverse = 1 / step, .stochastic = false, .key = {}};
      std::vector<float> state(600), expected_state(600);
      const ConstView view{x.data(), DType::kFloat32, 600};
      EXPECT_TRUE(quantize_uniform(grid, Form::kResidual, view, state.data(), 0, *codes));
      EXPECT_TRUE(scalar::quantize_uniform(grid, Form::kResidual, view, expected_state.data(), 0, *expected));
      expect_same(*codes, *expected);
      EXPECT_EQ(std::memcmp(state.data(), expected_state.data(), 2400), 0);
    }
  }
}

/// A lone symbol, tables of two, states at their limits: where quotients are largest.
TEST(UniformSimd, CodesSkewedSymbolsAlike) {
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (const size_t every : {1, 2, 3, 4, 1000, 30'000}) {
      Codes codes = fresh(0);
      std::vector<float> x(65'536);
      std::mt19937 random(static_cast<uint32_t>(every));
      for (size_t i = 0; i < x.size(); i += every) x[i] = random() % 5000 == 0 ? 9.0f : -1.0f;
      const ConstView view{x.data(), DType::kFloat32, x.size()};
      EXPECT_TRUE(quantize_uniform({}, Form::kPlain, view, nullptr, 0, *codes));
      check_coder(*codes);
      check_add(*codes, 1.0f);
    }
  }
}

}  // namespace
}  // namespace tsq::kernels
