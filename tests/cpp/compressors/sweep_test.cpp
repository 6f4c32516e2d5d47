// The codecs that sweep on several threads: bytes, states and values are those of one thread.
#include "compressors/sweep.h"

#include <gtest/gtest.h>

#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

constexpr size_t kNumel = 3 * 65536 + 777;
const char* const kFixed[] = {"Quantizer(bits=1, block=32, levels='unbiased')",
                              "Quantizer(bits=3, block=4096, levels='fit')",
                              "Quantizer(bits=4, levels='unbiased')",
                              "Quantizer(bits=8, block=64, levels='fit')",
                              "Sign()",
                              "Ternary(block=1024)",
                              "Natural()"};
const char* const kWhole[] = {"Cast(dtype='bf16')",
                              "Cast(dtype='fp8')",
                              "Identity()",
                              "UniformStep(bits=1.0)",
                              "UniformStep(step=0.5, rounding='stochastic')",
                              "TopK(ratio=0.1)",
                              "TopK(k=3)",
                              "TopK(ratio=0.6, value_dtype=Quantizer(bits=4))",
                              "RandK(ratio=0.05)",
                              "PermK()",
                              "Bernoulli(p=0.1)",
                              "StochasticSparsifier(budget=0.02)",
                              "SparseSign(ratio=0.02)",
                              "Dithering(levels=16)",
                              "Dithering(levels=100, block=64)",
                              "NaturalDithering(levels=8, norm='inf', block=65536)"};

/// All that a codec makes of x, on this many threads.
struct Outcome {
  std::vector<std::vector<uint8_t>> payloads;
  std::vector<bool> finite;
  std::vector<Vector> vectors;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const Compressor& c, const Vector& x, int threads) {
  set_num_threads(threads);
  const DType dtype = x.view().dtype;
  Outcome out;
  const auto take = [&](auto encode) {
    out.payloads.emplace_back(c.max_bytes(x.size(), dtype));
    const Compressor::Encoded sent = encode(out.payloads.back());
    EXPECT_TRUE(c.has_fixed_size() ? sent.bytes == out.payloads.back().size() : sent.bytes > 0);
    out.payloads.back().resize(sent.bytes);
    out.finite.push_back(sent.finite);
  };
  const EncodeKey key = encode_key({.seed = 3, .step = 1, .rank = 2}, 3 * 4096, 4);
  Vector e = test::random_vector(state_dtype(dtype), x.size(), 5),
         h = test::random_vector(state_dtype(dtype), x.size(), 6);
  take([&](MutableBytes to) { return c.encode(x.view(), key, to); });
  take([&](MutableBytes to) { return c.encode_residual(x.view(), e.view(), key, to); });
  take([&](MutableBytes to) { return c.encode_shifted(x.view(), h.view(), key, to); });
  Vector mean(dtype, x.size()), sum = test::random_vector(state_dtype(dtype), x.size(), 7), update = sum, out_of(mean);
  std::vector<Bytes> all;
  for (const auto& payload : out.payloads) {
    c.validate(payload, x.size(), dtype);
    c.decode_add(payload, dtype, 0.5, sum.view());
    all.emplace_back(payload);
  }
  c.decode_mean(all, mean.view());
  c.decode_update(all, 0.5, update.view(), out_of.view());
  EXPECT_TRUE(update == sum) << c.spec();  // as decode_add did it
  Vector rounded(dtype, x.size());
  assign(rounded.view(), update.view());
  EXPECT_TRUE(rounded == out_of) << c.spec();
  for (Vector* v : {&e, &h, &mean, &sum}) out.vectors.push_back(std::move(*v));
  set_num_threads(1);
  return out;
}

TEST(Sweep, ThreadsDoNotChangeAByte) {
  for (const char* spec : kFixed)
    for (const DType dtype : test::kAllDTypes) {
      const CompressorPtr c = parse_compressor(spec);
      Vector x = test::random_vector(dtype, kNumel, 1);
      const Outcome expected = run(*c, x, 1);
      for (const int threads : {2, 3}) EXPECT_TRUE(run(*c, x, threads) == expected) << spec << " " << name_of(dtype);
      x.set(2 * 65536 + 5, INFINITY);
      const Outcome marked = run(*c, x, 1);
      EXPECT_EQ(marked.finite, std::vector<bool>(3, false));
      EXPECT_TRUE(run(*c, x, 2) == marked) << spec << " " << name_of(dtype);
    }
}

// These send all of x or nothing. What was done to a residual before the Inf was met is taken back to rounding.
TEST(Sweep, ThreadsDoNotChangeAByteOfWhatIsSentAsAWhole) {
  for (const char* spec : kWhole)
    for (const DType dtype : test::kAllDTypes) {
      const CompressorPtr c = parse_compressor(spec);
      Vector x = test::random_vector(dtype, kNumel, 1);
      const Outcome expected = run(*c, x, 1);
      EXPECT_EQ(expected.finite, std::vector<bool>(3, true));
      for (const int threads : {2, 3}) EXPECT_TRUE(run(*c, x, threads) == expected) << spec << " " << name_of(dtype);
      if (c->format().codec == wire::Codec::kRaw) continue;  // it sends what it can
      for (const size_t where : {size_t{5}, size_t{2 * 65536 + 5}, kNumel - 1}) {
        Vector broken = x;
        broken.set(where, INFINITY);
        const Outcome marked = run(*c, broken, 2);
        EXPECT_EQ(marked.finite, std::vector<bool>(3, false)) << spec;
        for (const size_t state : {0, 1}) {
          const Vector before = test::random_vector(state_dtype(dtype), kNumel, 5 + state);
          EXPECT_LE(test::max_difference(marked.vectors[state].view(), before.view()), 2e-6) << spec << " " << where;
        }
      }
    }
}

TEST(Sweep, BadPayloadsAreFoundInEveryPiece) {
  for (const char* spec : kFixed) {
    const CompressorPtr c = parse_compressor(spec);
    const Vector x = test::random_vector(DType::kFloat32, kNumel, 1);
    std::vector<uint8_t> payload(c->max_bytes(kNumel, DType::kFloat32));
    c->encode(x.view(), {}, payload);
    set_num_threads(2);
    for (size_t piece = 0; piece < 4; ++piece) {
      std::vector<uint8_t> bad = payload;
      const size_t at = c->max_bytes(piece * 65536, DType::kFloat32);  // a scale (an exponent): not finite
      std::fill_n(bad.begin() + static_cast<long>(at), 4, uint8_t{0xFF});
      EXPECT_THROW(c->validate(bad, kNumel, DType::kFloat32), WireError) << spec << " " << piece;
    }
    c->validate(payload, kNumel, DType::kFloat32);
    set_num_threads(1);
  }
}

}  // namespace
}  // namespace tsq
