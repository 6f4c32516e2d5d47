// The codecs' kernels on one thread, as ratios to memcpy of the same bucket. memcpy and kernel run in turns,
// so that what the machine does besides hits both; the figure is the median of the ratios. Memory is touched first and
// asks for huge pages, so that page faults are not measured. The last column is memcpy's own ns/element. Usage:
// bench_kernels [substring of a case's name]
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench.h"
#include "common/checksum.h"
#include "compressors/registry.h"
#include "kernels/natural.h"
#include "kernels/quantizer.h"

namespace tsq::kernels {
namespace {

using bench::allocate;
using bench::Array;
using bench::kElements;
using bench::median;
using bench::seconds;

constexpr int kRepetitions = 21;

constexpr PhiloxKey kKey{1, 2};

class Bench {
 public:
  Bench() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> some(1 << 16);
    for (float& v : some) v = normal(random) * 1e-3f;
    for (size_t i = 0; i < kElements; ++i) x_[i] = some[(i * 7 + i / some.size() * 31) % some.size()];
    for (auto& payload : payloads_) payload = allocate<uint8_t>(quantizer_bytes(kElements, 8, 32));
  }

  void run(const char* target, const std::string& filter) {
    force_simd_target(target);
    const auto encode = [&](const char* name, int bits, Rounding rounding, Form form) {
      if (std::string(name).find(filter) != std::string::npos)
        quantizing(target, name, {bits, 256, rounding, 1.0f}, form);
    };
    encode("quantize 4 bits unbiased, residual", 4, Rounding::kStochastic, Form::kResidual);
    encode("quantize 4 bits unbiased, plain", 4, Rounding::kStochastic, Form::kPlain);
    encode("quantize 4 bits unbiased, shifted", 4, Rounding::kStochastic, Form::kShifted);
    encode("quantize 8 bits unbiased, residual", 8, Rounding::kStochastic, Form::kResidual);
    encode("quantize 2 bits unbiased (Ternary), residual", 2, Rounding::kStochastic, Form::kResidual);
    encode("quantize 1 bit unbiased, residual", 1, Rounding::kStochastic, Form::kResidual);
    encode("quantize 1 bit fit, residual", 1, Rounding::kFit, Form::kResidual);
    encode("Sign, residual", 1, Rounding::kSign, Form::kResidual);
    encode("quantize 2 bits fit, residual", 2, Rounding::kFit, Form::kResidual);
    encode("quantize 3 bits fit, residual", 3, Rounding::kFit, Form::kResidual);
    encode("quantize 4 bits fit, residual", 4, Rounding::kFit, Form::kResidual);
    decoding(target, filter);
    natural(target, filter);
    for (const auto& [name, spec] : {std::pair<const char*, const char*>{"top-k 0.1 %", "TopK(ratio=0.001)"},
                                     {"top-k 1.0 %", "TopK(ratio=0.01)"},
                                     {"top-k 10.0 %", "TopK(ratio=0.1)"},
                                     {"top-k 1 %, 4 bits", "TopK(ratio=0.01, value_dtype=Quantizer(bits=4))"},
                                     {"rand-k 1 %", "RandK(ratio=0.01)"},
                                     {"rand-k 10 %", "RandK(ratio=0.1)"},
                                     {"perm-k of 8", "PermK()"},
                                     {"Bernoulli 1 %", "Bernoulli(p=0.01)"},
                                     {"stochastic sparsifier 1 %", "StochasticSparsifier(budget=0.01)"},
                                     {"sparse sign 1 %", "SparseSign(ratio=0.01)"}})
      sparse(target, filter, name, spec);
    for (const char* spec :
         {"Dithering(levels=1)", "Dithering(levels=16)", "Dithering(levels=256)", "Dithering(levels=2048)",
          "Dithering(levels=7, norm='inf', block=256)", "Dithering(levels=127, norm='inf', block=256)",
          "NaturalDithering(levels=8)", "NaturalDithering(levels=8, norm='inf', block=256)", "Cast(dtype='fp16')",
          "Cast(dtype='bf16')", "Cast(dtype='fp8')", "Cast(dtype='fp8_e5m2')"})
      whole(target, filter, spec);
    force_simd_target(nullptr);
  }

 private:
  // Times `run` against memcpy, warm.
  void measure(const char* target, const std::string& name, const std::function<void()>& run) {
    std::vector<double> times, ratios, copies;
    run();
    for (int i = 0; i < kRepetitions; ++i) {
      const double copy = seconds([&] { std::memcpy(copy_.get(), x_.get(), kElements * sizeof(float)); });
      copies.push_back(copy);
      times.push_back(seconds(run));
      ratios.push_back(times.back() / copy);
    }
    const double time = median(times), best = *std::min_element(times.begin(), times.end());
    std::printf("%-6s %-38s %6.3f ns/element (best %6.3f) %6.2f GB/s  %5.2f x memcpy (%5.3f)\n", target, name.c_str(),
                time * 1e9 / double(kElements), best * 1e9 / double(kElements), 4e-9 * double(kElements) / time,
                median(ratios), median(copies) * 1e9 / double(kElements));
    std::fflush(stdout);
  }

  void quantizing(const char* target, const char* name, const QuantizerParams& params, Form form) {
    check(params, form);
    std::memset(state_.get(), 0, kElements * sizeof(float));
    float* const state = form == Form::kPlain ? nullptr : state_.get();
    measure(target, name, [&] {
      quantize(params, form, {x_.get(), DType::kFloat32, kElements}, state, kKey, 0, payloads_[0].get());
    });
  }

  void natural(const char* target, const std::string& filter) {
    const ConstView x{x_.get(), DType::kFloat32, kElements};
    const View state{state_.get(), DType::kFloat32, kElements};
    const auto take = [&](const std::string& name, const std::function<void()>& run) {
      std::memset(state_.get(), 0, kElements * sizeof(float));
      if (name.find(filter) != std::string::npos) measure(target, name, run);
    };
    uint8_t* const payload = payloads_[0].get();
    encode_natural(Form::kPlain, x, nullptr, kKey, 0, payload);
    take("Natural, plain", [&] { encode_natural(Form::kPlain, x, nullptr, kKey, 0, payload); });
    take("Natural, residual", [&] { encode_natural(Form::kResidual, x, state.data, kKey, 0, payload); });
    take("Natural, mean of 1 message", [&] { decode_natural_mean(&payload, 1, state); });
    take("Natural, valid", [&] { benchmark::DoNotOptimize(valid_natural(payload, kElements)); });
  }

  // The kernel's bytes and state are the oracle's, on the first 64 Ki elements.
  void check(const QuantizerParams& params, Form form) {
    constexpr size_t kChecked = 65536 + 5;
    std::vector<float> state(kChecked), expected_state(kChecked);
    std::vector<uint8_t> payload(quantizer_bytes(kChecked, params.bits, params.block)), expected(payload.size());
    for (int step = 0; step < 2; ++step) {
      quantize(params, form, {x_.get(), DType::kFloat32, kChecked}, state.data(), kKey, 0, payload.data());
      scalar::quantize(params, form, {x_.get(), DType::kFloat32, kChecked}, expected_state.data(), kKey, 0,
                       expected.data());
      if (payload == expected && state == expected_state) continue;
      std::fprintf(stderr, "the kernel differs from the oracle\n");
      std::exit(1);
    }
  }

  void decoding(const char* target, const std::string& filter) {
    const QuantizerParams params{4, 256, Rounding::kStochastic, 1.0f};
    const uint8_t* messages[8];
    for (size_t m = 0; m < 8; ++m) {
      messages[m] = payloads_[m].get();
      quantize(params, Form::kPlain, {x_.get(), DType::kFloat32, kElements}, nullptr, PhiloxKey{7, uint32_t(m)}, 0,
               payloads_[m].get());
    }
    const auto take = [&](const std::string& name, const std::function<void()>& run) {
      if (name.find(filter) != std::string::npos) measure(target, name, run);
    };
    for (const size_t count : {1, 2, 4, 8}) {
      take("dequantize_mean 4 bits, " + std::to_string(count) + " messages", [&] {
        dequantize_mean(params, messages, count, {state_.get(), DType::kFloat32, kElements});
      });
    }
    std::memset(state_.get(), 0, kElements * sizeof(float));
    take("dequantize_add 4 bits", [&] {
      dequantize_add(params, messages[0], kElements, 0.5, {state_.get(), DType::kFloat32, kElements});
    });
    const Bytes sent(messages[0], quantizer_bytes(kElements, params.bits, params.block));
    take("checksum of a 4-bit message", [&] { benchmark::DoNotOptimize(checksum(sent, 0)); });
    take("valid_payload 4 bits", [&] { benchmark::DoNotOptimize(valid_payload(params, messages[0], kElements)); });
    // What any kernel with error feedback costs at least: read two vectors, write one.
    take("e += x, the floor of error feedback", [&] {
      for (size_t i = 0; i < kElements; ++i) state_[i] += x_[i];
    });
    take("all_finite", [&] { benchmark::DoNotOptimize(all_finite({x_.get(), DType::kFloat32, kElements})); });
  }

  // A whole compressor by its spec, with what its payload costs.
  void whole(const char* target, const std::string& filter, const char* spec) {
    const CompressorPtr c = parse_compressor(spec);
    Array<uint8_t> payload = allocate<uint8_t>(c->max_bytes(kElements, DType::kFloat32));
    const MutableBytes out(payload.get(), c->max_bytes(kElements, DType::kFloat32));
    const View x{x_.get(), DType::kFloat32, kElements}, state{state_.get(), DType::kFloat32, kElements};
    std::memset(state_.get(), 0, kElements * sizeof(float));
    size_t bytes = 0;
    const auto take = [&](const char* what, const std::function<void()>& run) {
      const std::string name = std::string(spec) + ", " + what;
      if (name.find(filter) != std::string::npos) measure(target, name, run);
    };
    take("residual", [&] { c->as_contractive()->encode_residual(x, state, {}, out); });
    take("plain", [&] { bytes = c->encode(x, {}, out).bytes; });
    bytes = c->encode(x, {}, out).bytes;
    const Bytes sent = out.first(bytes);
    take("validate", [&] { c->validate(sent, kElements, DType::kFloat32); });
    take("decode_mean of 1", [&] { c->decode_mean({&sent, 1}, state); });
    if (std::string(spec).find(filter) != std::string::npos)
      std::printf("       %-38s %.3f bits/element\n", spec, 8.0 * double(bytes) / double(kElements));
  }

  // The whole compressor: selection, index coding, state.
  void sparse(const char* target, const std::string& filter, const char* sparsifier, const char* spec) {
    const CompressorPtr made = parse_compressor(spec)->as_contractive();
    const Compressor& c = *made;
    const EncodeKey key = encode_key({.seed = 1}, 0, 8);
    const size_t room = quantizer_bytes(kElements, 8, 32);  // more than any of them takes here
    const View x{x_.get(), DType::kFloat32, kElements}, state{state_.get(), DType::kFloat32, kElements};
    size_t bytes = 0;
    const auto take = [&](const char* what, const std::function<void()>& run) {
      char name[64];
      std::snprintf(name, sizeof name, "%s, %s", sparsifier, what);
      if (std::string(name).find(filter) != std::string::npos) measure(target, name, run);
    };
    std::memset(state_.get(), 0, kElements * sizeof(float));
    take("plain", [&] { bytes = c.encode(x, key, {payloads_[0].get(), room}).bytes; });
    take("residual", [&] { bytes = c.encode_residual(x, state, key, {payloads_[0].get(), room}).bytes; });
    bytes = c.encode(x, key, {payloads_[0].get(), room}).bytes;
    const Bytes payload(payloads_[0].get(), bytes);
    take("validate", [&] { c.validate(payload, kElements, DType::kFloat32); });
    take("decode_mean of 1", [&] { c.decode_mean({&payload, 1}, state); });
  }

  Array<float> x_ = allocate<float>(kElements), state_ = allocate<float>(kElements), copy_ = allocate<float>(kElements);
  Array<uint8_t> payloads_[8];
};

}  // namespace
}  // namespace tsq::kernels

int main(int argc, char** argv) {
  tsq::kernels::Bench bench;
  size_t count = 0;
  const char* const* targets = tsq::kernels::simd_targets(&count);
  for (size_t i = 0; i < count; ++i) bench.run(targets[i], argc > 1 ? argv[1] : "");
}
