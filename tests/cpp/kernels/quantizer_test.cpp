// What the quantizer promises about bytes, states and payloads. That SIMD equals the oracle is tested elsewhere.
#include "kernels/quantizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <random>

#include "common/bytes.h"
#include "gaussian.h"
#include "kernels/payload.h"

namespace tsq::kernels {
namespace {

constexpr PhiloxKey kKey{3, 4};
constexpr Rounding kRoundings[] = {Rounding::kStochastic, Rounding::kNearest, Rounding::kFit};

std::vector<uint8_t> encode(const QuantizerParams& params, const std::vector<float>& x, Form form = Form::kPlain,
                            float* state = nullptr) {
  std::vector<uint8_t> payload(quantizer_bytes(x.size(), params.bits, params.block));
  quantize(params, form, {x.data(), DType::kFloat32, x.size()}, state, kKey, 0, payload.data());
  return payload;
}

std::vector<float> decode(const QuantizerParams& params, const std::vector<uint8_t>& payload, size_t n) {
  std::vector<float> values(n);
  const uint8_t* in = payload.data();
  dequantize_mean(params, &in, 1, {values.data(), DType::kFloat32, n});
  return values;
}

using test::gaussian;

// Value of element i, straight from the document.
float value_of(const QuantizerParams& params, const uint8_t* payload, size_t n, size_t i) {
  const size_t group = params.group(), begin = i / group * group, m = std::min(group, n - begin), in_group = i - begin;
  const uint8_t* p = payload + quantizer_bytes(begin, params.bits, params.block);
  uint32_t scale;
  std::memcpy(&scale, p + 4 * (in_group / params.block), 4);
  p += 4 * ((m + params.block - 1) / params.block);
  const size_t tile = in_group / 256, t = std::min<size_t>(256, m - 256 * tile), rows = (t + 31) / 32;
  const size_t bits = static_cast<size_t>(params.bits), bytes = (bits * rows + 7) / 8;
  p += 32 * bits * tile + in_group % 32 * bytes;
  uint64_t word = 0;
  std::memcpy(&word, p, bytes);
  const int q = static_cast<int>(word >> (in_group % 256 / 32 * bits) & ((1u << bits) - 1));
  const int s = (1 << (bits - 1)) - 1;
  const float f = std::abs(std::bit_cast<float>(scale));
  const bool mid_rise = bits == 1 || (params.rounding == Rounding::kFit && scale >> 31 != 0);
  return mid_rise ? static_cast<float>(2 * q + 1 - (1 << bits)) * f : static_cast<float>(q - s) * f;
}

TEST(Quantizer, DecodesAsTheDocumentSays) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const Rounding rounding : kRoundings) {
      for (const uint32_t block : {32u, 256u, 512u}) {
        const QuantizerParams params{bits, block, rounding, 0.9f};
        const std::vector<float> x = gaussian(1400, 1);
        const std::vector<uint8_t> payload = encode(params, x);
        const std::vector<float> values = decode(params, payload, x.size());
        for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(values[i], value_of(params, payload.data(), x.size(), i)) << i;
      }
    }
  }
}

TEST(Quantizer, StatesFollowTheirForms) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const Rounding rounding : kRoundings) {
      const QuantizerParams params{bits, 64, rounding, 1.0f};
      const std::vector<float> x = gaussian(1000, 2), before = gaussian(1000, 3);
      std::vector<float> residual = before, shift = before;
      const std::vector<float> m = decode(params, encode(params, x, Form::kResidual, residual.data()), x.size());
      const std::vector<float> d = decode(params, encode(params, x, Form::kShifted, shift.data()), x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        const float sum = before[i] + x[i];
        ASSERT_EQ(residual[i], sum - m[i]);
        ASSERT_NEAR(residual[i] + m[i], sum, 2 * FLT_EPSILON * (std::abs(sum) + std::abs(m[i])));  // nothing is lost
        ASSERT_EQ(shift[i], before[i] + d[i]);
      }
    }
  }
}

TEST(Quantizer, RoundsDoublesOnce) {
  const QuantizerParams params{4, 256, Rounding::kNearest, 1.0f};
  std::vector<double> x(300, 1e-9), state(300, 1.0);  // in float32, 1 + 1e-9 would lose the gradient
  std::vector<uint8_t> payload(quantizer_bytes(x.size(), 4, 256));
  quantize(params, Form::kResidual, {x.data(), DType::kFloat64, x.size()}, state.data(), kKey, 0, payload.data());
  for (const double e : state) EXPECT_DOUBLE_EQ(e, (1.0 + 1e-9) - 1.0);
}

// The largest legal scale gives finite values at the outermost codes; the next float is refused, on every target.
TEST(Quantizer, ScalesAboveTheCapAreRefused) {
  constexpr size_t kNumel = 256 + 40;  // a whole group, which SIMD sees, and a short one
  size_t count = 0;
  const char* const* targets = simd_targets(&count);
  for (int bits = 1; bits <= 8; ++bits)
    for (const bool mid_rise : {false, true})
      for (const size_t block : {0, 256}) {
        if (bits == 1 && !mid_rise) continue;
        const QuantizerParams params{bits, 256, Rounding::kFit, 1.0f};
        std::vector<uint8_t> payload(quantizer_bytes(kNumel, bits, 256));
        const int top = (1 << bits) - 1, centre = (1 << (bits - 1)) - 1;
        const float cap = 0x1.FFFFFp127f / static_cast<float>(mid_rise ? top : centre);
        if (mid_rise) std::fill_n(payload.begin() + 4, 32 * bits, uint8_t{0xFF});  // of the first block
        uint8_t* const scale = payload.data() + (block == 0 ? 0 : quantizer_bytes(256, bits, 256));
        if (mid_rise) store(payload.data(), -cap);
        store(scale, mid_rise ? -cap : cap);
        const std::vector<float> values = decode(params, payload, kNumel);
        EXPECT_TRUE(all_finite({values.data(), DType::kFloat32, kNumel})) << bits;
        for (size_t t = 0; t <= count; ++t) {
          force_simd_target(t < count ? targets[t] : nullptr);
          store(scale, mid_rise ? -cap : cap);
          EXPECT_TRUE(valid_payload(params, payload.data(), kNumel)) << bits << mid_rise << block;
          store(scale, std::nextafter(mid_rise ? -cap : cap, mid_rise ? -INFINITY : INFINITY));
          EXPECT_FALSE(valid_payload(params, payload.data(), kNumel)) << bits << mid_rise << block;
          EXPECT_FALSE(scalar::valid_payload(params, payload.data(), kNumel)) << bits << mid_rise << block;
        }
      }
}

// One hostile element at a time: no state or value becomes non-finite, and only its own block is touched.
TEST(Quantizer, SurvivesEverything) {
  const float hostile[] = {0.0f, -0.0f, 1e-45f, -1e-40f, 1e-36f, 1e30f, -FLT_MAX, FLT_MAX, INFINITY, -INFINITY, NAN};
  for (int bits = 1; bits <= 8; ++bits) {
    for (const Rounding rounding : kRoundings) {
      for (const float v : hostile) {
        for (const bool all : {false, true}) {
          const QuantizerParams params{bits, 64, rounding, 1.0f};
          std::vector<float> x = gaussian(600, 4), state(600, 0.0f);
          if (all) std::fill(x.begin(), x.end(), v);
          x[70] = v;
          std::vector<uint8_t> payload(quantizer_bytes(x.size(), bits, 64));
          const bool finite = quantize(params, Form::kResidual, {x.data(), DType::kFloat32, x.size()}, state.data(),
                                       kKey, 0, payload.data());
          ASSERT_EQ(finite, std::isfinite(v));
          ASSERT_TRUE(valid_payload(params, payload.data(), x.size()));
          ASSERT_TRUE(all_finite({state.data(), DType::kFloat32, state.size()})) << bits << " " << v;
          const std::vector<float> values = decode(params, payload, x.size());
          ASSERT_TRUE(all_finite({values.data(), DType::kFloat32, values.size()})) << bits << " " << v;
          if (!finite) {
            ASSERT_EQ(values[64], 0.0f);
            ASSERT_EQ(state[64], 0.0f);
          }
          ASSERT_TRUE(all || !all_zero({values.data() + 128, DType::kFloat32, 64})) << "another block";
        }
      }
    }
  }
}

// ---- valid_payload
// ---------------------------------------------------------------------------------------------------

void expect_invalid(const QuantizerParams& params, std::vector<uint8_t> payload, size_t n, size_t byte, uint8_t flip,
                    const char* what) {
  payload[byte] ^= flip;
  EXPECT_FALSE(valid_payload(params, payload.data(), n)) << what;
  EXPECT_FALSE(scalar::valid_payload(params, payload.data(), n)) << what;
}

void set_scale(std::vector<uint8_t>& payload, float scale) { std::memcpy(payload.data(), &scale, 4); }

TEST(ValidPayload, RejectsIllegalScales) {
  for (const size_t n : {size_t{256}, size_t{100}}) {  // SIMD and oracle
    const std::vector<float> x = gaussian(n, 5);
    for (const Rounding rounding : kRoundings) {
      for (int bits = 1; bits <= 8; ++bits) {
        const QuantizerParams params{bits, 256, rounding, 1.0f};
        const std::vector<uint8_t> good = encode(params, x);
        EXPECT_TRUE(valid_payload(params, good.data(), n));
        for (const float scale : {INFINITY, -INFINITY, NAN}) {
          std::vector<uint8_t> bad = good;
          set_scale(bad, scale);
          EXPECT_FALSE(valid_payload(params, bad.data(), n));
        }
        std::vector<uint8_t> empty = good;
        set_scale(empty, 0.0f);
        EXPECT_FALSE(valid_payload(params, empty.data(), n)) << "codes in an empty block";
        std::vector<uint8_t> negative = good;
        set_scale(negative, -1.0f);
        EXPECT_EQ(valid_payload(params, negative.data(), n), rounding == Rounding::kFit);
        std::vector<uint8_t> positive = good;
        set_scale(positive, 1.0f);
        EXPECT_TRUE(bits > 1 || valid_payload(params, positive.data(), n) == (rounding != Rounding::kFit));
      }
    }
  }
}

TEST(ValidPayload, RejectsIllegalCodes) {
  for (const uint32_t block : {32u, 128u, 256u, 512u}) {
    for (int bits = 2; bits <= 8; ++bits) {
      const QuantizerParams params{bits, block, Rounding::kNearest, 1.0f};
      const size_t n = params.group(), scales = 4 * (params.block < 256 ? 256 / params.block : 1);
      std::vector<float> x(n, -1.0f);  // all codes are 0: setting one to all ones is one code beyond 2s
      const std::vector<uint8_t> good = encode(params, x);
      ASSERT_TRUE(valid_payload(params, good.data(), n));
      for (size_t lane = 0; lane < 32; ++lane) {
        for (size_t row = 0; row < 8; ++row) {
          std::vector<uint8_t> bad = good;
          for (size_t bit = row * size_t(bits); bit < (row + 1) * size_t(bits); ++bit) {
            bad[scales + lane * size_t(bits) + bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
          }
          ASSERT_FALSE(valid_payload(params, bad.data(), n)) << bits << " " << lane << " " << row;
        }
      }
    }
  }
}

TEST(ValidPayload, RejectsBitsOfNoElement) {
  // 33 elements: 2 rows, the second of one lane. With 3 bits a word is 6 of 8 bits.
  const QuantizerParams params{3, 256, Rounding::kFit, 1.0f};
  const std::vector<uint8_t> good = encode(params, gaussian(33, 6));
  ASSERT_EQ(good.size(), 4u + 32u);
  expect_invalid(params, good, 33, 4 + 1, 1 << 3, "row 1 of lane 1 does not exist");
  expect_invalid(params, good, 33, 4 + 0, 1 << 6, "bits above the last row");
  expect_invalid(params, good, 33, 4 + 31, 1 << 7, "bits above the last row, last lane");
}

TEST(ValidPayload, SurvivesRandomBytes) {
  std::mt19937_64 random(7);
  size_t valid = 0;
  for (int trial = 0; trial < 100000; ++trial) {
    const QuantizerParams params{static_cast<int>(random() % 8) + 1, 32u << random() % 4, kRoundings[random() % 3],
                                 1.0f, random() % 2 == 1};
    const size_t n = random() % 600;
    std::vector<uint8_t> payload(quantizer_bytes(n, params));
    for (size_t i = 0; i < payload.size(); i += 8) {
      const uint64_t word = random();
      std::memcpy(payload.data() + i, &word, std::min<size_t>(8, payload.size() - i));
    }
    const bool accepted = valid_payload(params, payload.data(), n);
    ASSERT_EQ(accepted, scalar::valid_payload(params, payload.data(), n)) << test::describe(params, n);
    valid += accepted;
    float values[600] = {};
    dequantize_add(params, payload.data(), n, 1.0, {values, DType::kFloat32, n});
  }
  EXPECT_GT(valid, 0u);
}

}  // namespace
}  // namespace tsq::kernels
