// UniformStep(bits= or step=): integers q = rint(z / step) with one step for the whole section, entropy-coded. Format:
// docs/wire_format.md, codec 5.
//
//   `bits` sets the step from the data, with M the largest magnitude. Hence, with n elements,
//     rounding nearest:    step <= 7/4 M: B(28 / (49 n + 15)), the exact infimum over inputs and steps. An element
//     loses
//                          min(|x_i|, step / 2) at most, so what is realised is far better;
//     rounding stochastic: step <= 16 M: U(8 (1 + sqrt(n)) - 1), the exact supremum.
//   Elements below 2^-126 (and clamped ones, |q| > 32767) stay in the residual. With a fixed `step` both depend on the
//   data and no constant holds. Derivations: docs/algorithms.md.
#pragma once

#include "compressors/fused.h"

namespace tsq {

class UniformStep final : public FusedCompressor {
 public:
  struct Config {
    std::optional<double> bits;      ///< in (0, 12], per element, all included
    std::optional<double> step;      ///< as float32 in [2^-126, 2^112]
    std::optional<bool> stochastic;  ///< none: nearest, unless a mechanism resolves it otherwise
  };

  /// Throws ArgumentError unless exactly one of bits and step is given, in its range.
  explicit UniformStep(const Config& config);

  std::string spec() const override;
  wire::Format format() const override { return {.codec = wire::Codec::kUniformStep}; }
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  std::optional<double> target_bits() const override { return config_.bits; }
  CompressorPtr as_contractive() const override { return resolved(false); }
  CompressorPtr as_unbiased() const override { return resolved(true); }
  size_t max_bytes(size_t n, DType dtype) const override;
  size_t zero_bytes(size_t n, DType dtype) const override;
  bool has_fixed_size() const override { return false; }
  /// The wanted number; with `step` nothing is known before the data is seen: the maximum.
  double expected_bits(size_t n, DType dtype) const override;
  size_t granularity() const override { return 256; }
  bool divisible() const override { return true; }
  std::optional<float> common_step(ConstView x, const View* residual, const EncodeKey& key) const override;

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;

 private:
  /// If an element of what is compressed is not finite in float32, the payload is the one of zeros and the state is as
  /// it was; beyond the first 65,536 elements to rounding (callers with state look at x first).
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;
  CompressorPtr resolved(bool stochastic) const;
  std::optional<float> step_of(kernels::Form form, ConstView x, const void* state, const EncodeKey& key) const;
  bool stochastic() const { return config_.stochastic.value_or(false); }

  Config config_;
};

}  // namespace tsq
