// Test data for the block quantizer: gradients of every kind, in every element type, at addresses that are aligned to
// the type only.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/half.h"
#include "kernels/quantizer.h"

namespace tsq::test {

/// Memory for `bytes` bytes that starts `skew` bytes past a cache line, with guard bytes behind it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(size_t bytes, size_t skew) : bytes_(bytes), memory_(bytes + 64 + skew + kGuard, 0xA5) {
    const size_t address = reinterpret_cast<size_t>(memory_.data());
    begin_ = (64 - address % 64) % 64 + skew;
    std::memset(data(), 0, bytes);
  }
  Buffer(const Buffer&) = delete;  // a copy would be aligned differently
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;

  uint8_t* data() { return memory_.data() + begin_; }
  const uint8_t* data() const { return memory_.data() + begin_; }
  size_t size() const { return bytes_; }
  bool same(const Buffer& other) const {
    return bytes_ == other.bytes_ && std::memcmp(data(), other.data(), bytes_) == 0;
  }
  /// False if something was written behind the end.
  bool intact() const {
    for (size_t i = begin_ + bytes_; i < memory_.size(); ++i) {
      if (memory_[i] != 0xA5) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  size_t bytes_ = 0, begin_ = 0;
  std::vector<uint8_t> memory_;
};

inline Buffer copy_of(const Buffer& from, size_t skew) {
  Buffer to(from.size(), skew);
  std::memcpy(to.data(), from.data(), from.size());
  return to;
}

inline void store(DType dtype, void* to, size_t i, double value) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(to)[i] = static_cast<float>(value);
      break;
    case DType::kFloat64:
      static_cast<double*>(to)[i] = value;
      break;
    case DType::kFloat16:
      static_cast<Half*>(to)[i] = to_half(static_cast<float>(value));
      break;
    case DType::kBFloat16:
      static_cast<BFloat16*>(to)[i] = to_bfloat16(static_cast<float>(value));
      break;
  }
}

inline double load(DType dtype, const void* from, size_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(from)[i];
    case DType::kFloat64:
      return static_cast<const double*>(from)[i];
    case DType::kFloat16:
      return to_float(static_cast<const Half*>(from)[i]);
    case DType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(from)[i]);
  }
  return 0;
}

/// n elements of all that happens in gradients: Gaussian runs of very different size, sparse runs, zeros, both signs of
/// zero, denormals; with `specials` a few Inf and NaN too.
inline Buffer gradient(DType dtype, size_t n, size_t skew, uint64_t seed, bool specials = false) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Buffer buffer(n * size_of(dtype), skew);
  double size = 1.0;
  uint64_t kind = 0;
  for (size_t i = 0; i < n; ++i) {
    if (i % 32 == 0 && random() % 4 == 0) {
      kind = random() % 8;
      size = std::ldexp(1.0, static_cast<int>(random() % 24) - 16);
      if (dtype != DType::kFloat16 && random() % 8 == 0) size = std::ldexp(1.0, static_cast<int>(random() % 240) - 130);
    }
    double value = normal(random) * size;
    if (kind == 0) value = random() % 2 == 0 ? 0.0 : -0.0;
    if (kind == 1 && random() % 16 != 0) value = 0.0;
    if (kind == 2) value = std::copysign(size, value);
    if (specials && random() % 512 == 0) value = random() % 2 == 0 ? INFINITY : NAN;
    store(dtype, buffer.data(), i, value);
  }
  return buffer;
}

/// Restricts dispatch for as long as it lives.
class ForcedTarget {
 public:
  explicit ForcedTarget(const char* name) { kernels::force_simd_target(name); }
  ~ForcedTarget() { kernels::force_simd_target(nullptr); }
};

inline std::vector<const char*> targets() {
  size_t count = 0;
  const char* const* names = kernels::simd_targets(&count);
  return {names, names + count};
}

inline std::string describe(const kernels::QuantizerParams& params, size_t n) {
  return "bits " + std::to_string(params.bits) + " block " + std::to_string(params.block) + " rounding " +
         std::to_string(static_cast<int>(params.rounding)) + (params.bf16_scales ? " bf16 scales" : "") + " n " +
         std::to_string(n);
}

}  // namespace tsq::test
