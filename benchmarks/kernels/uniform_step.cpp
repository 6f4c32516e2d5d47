// UniformStep: CPU time of error-feedback encoding and of decoding in ns per element, next to memcpy in the same
// repetition, and size over the order-0 entropy of the integers. One line per data and rate.
//   bench_uniform_step [elements] [SIMD target]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "compressors/uniform_step.h"

namespace {

using namespace tsq;
using Floats = std::vector<float>;

Floats make_data(bool layers, size_t n) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::exponential_distribution<float> exponential;
  Floats x(n);
  float scale = 1e-3f;
  for (size_t i = 0; i < n; ++i) {
    if (layers && i % 4096 == 0) scale = 1e-3f * std::exp(normal(random));
    x[i] = scale * (layers ? (random() % 2 ? 1.0f : -1.0f) * exponential(random) : normal(random));
  }
  return x;
}

double order0_bits(const Floats& values, float step) {
  std::vector<double> counts(65536);
  for (const float v : values) ++counts[static_cast<size_t>(std::lround(v / step) + 32768)];
  double bits = 0;
  for (const double c : counts)
    if (c > 0) bits += c * std::log2(static_cast<double>(values.size()) / c);
  return bits;
}

struct Median {
  std::vector<double> of;
  double get() {
    std::sort(of.begin(), of.end());
    return of[of.size() / 2];
  }
};

/// Of this thread, so that other work on the machine counts for little.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds(const std::function<void()>& work) {
  const double begin = cpu_seconds();
  work();
  return cpu_seconds() - begin;
}

void report(const char* name, const Floats& x, double bits) {
  const size_t n = x.size();
  const UniformStep c({.bits = bits, .step = {}, .stochastic = false});
  std::vector<uint8_t> out(c.max_bytes(n, DType::kFloat32));
  Floats e(n), acc(n), copy(n);
  const ConstView view{x.data(), DType::kFloat32, n};
  size_t bytes = 0;
  Median encode, decode, copying;
  for (int repetition = 0; repetition < 15; ++repetition) {
    const double c0 = seconds([&] { std::copy(x.begin(), x.end(), copy.begin()); });
    const double t = seconds([&] { bytes = c.encode_residual(view, {e.data(), DType::kFloat32, n}, {}, out).bytes; });
    const Bytes payload{out.data(), bytes};
    const double d = seconds([&] { c.decode_add(payload, DType::kFloat32, 0.5, {acc.data(), DType::kFloat32, n}); });
    if (repetition < 3) continue;  // the residual settles
    copying.of.push_back(c0);
    encode.of.push_back(t);
    decode.of.push_back(d);
  }
  std::fill(acc.begin(), acc.end(), 0.0f);
  c.decode_add({out.data(), bytes}, DType::kFloat32, 1.0, {acc.data(), DType::kFloat32, n});
  const double scale = 1e9 / static_cast<double>(n);
  std::printf(
      "%-8s %9zu elements, %.1f bits: got %.4f, %.4f of the entropy; ns/element: encode %.3f, decode_add %.3f, memcpy "
      "%.3f\n",
      name, n, bits, 8.0 * static_cast<double>(bytes) / static_cast<double>(n),
      8.0 * static_cast<double>(bytes) / order0_bits(acc, load<float>(out.data())), scale * encode.get(),
      scale * decode.get(), scale * copying.get());
}

}  // namespace

int main(int argc, char** argv) {
  const size_t n = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : size_t{6'553'600};
  if (argc > 2 && !kernels::force_simd_target(argv[2])) return 1;
  for (const bool layers : {true, false}) {
    const Floats x = make_data(layers, n);
    for (const double bits : {2.0, 1.0, 0.5, 0.2}) report(layers ? "Laplace" : "Gauss", x, bits);
  }
  return 0;
}
