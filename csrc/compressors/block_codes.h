// What the codecs with fixed-width codes and a scale per block share: everything but names, classes and choices.
// Payloads: docs/wire_format.md, codecs 1 to 3.
#pragma once

#include <algorithm>
#include <string>

#include "compressors/fused.h"
#include "kernels/quantizer.h"

namespace tsq {

/// What is left of the energy that a least-squares scale captures once it is rounded to bfloat16, to nearest.
constexpr double kBFloat16Share = 1.0 - 0x1p-16;

/// The levels -s..s times a scale that puts s on the largest magnitude of n elements, or with 16-bit scales up to
/// 1 / 128 above it. s = 0: the one-bit grid, +-scale. omega of rounding at random, exact or with 16-bit scales a
/// bound, and alpha of rounding to nearest (s >= 1), a bound. Derivations: docs/algorithms.md.
double grid_omega(int s, size_t n, bool bf16_scales);
double grid_alpha(int s, size_t n, bool bf16_scales);

class BlockCodes : public FusedCompressor {
 public:
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;
  size_t max_bytes(size_t n, DType dtype) const override;
  double expected_bits(size_t n, DType dtype) const override;
  size_t granularity() const override { return params_.group(); }
  bool in_pieces() const override { return true; }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;

 protected:
  /// `params` must be legal; check_block() helps.
  explicit BlockCodes(const kernels::QuantizerParams& params) : params_(params) {}

  /// Throws ArgumentError, which begins with `name`, unless `block` is a power of two from 32 to 4096.
  static void check_block(const char* name, uint32_t block);

  const kernels::QuantizerParams& params() const { return params_; }

  /// Elements of the longest block of a vector of n, at least 1.
  size_t longest_block(size_t n) const { return std::min<size_t>(params_.block, std::max<size_t>(n, 1)); }

  /// f(factor) at the two ends of what the shrink factor may be once the scale is rounded: the smaller result.
  template <class F>
  double least_over_shrink(F&& f) const {
    const double shrink = params_.shrink, error = params_.bf16_scales ? 0x1p-8 : 0.0;
    return std::min(f(shrink * (1.0 - error)), f(shrink * (1.0 + error)));
  }

  /// The format's variant, given the levels of codec 1.
  uint8_t variant(wire::Levels levels) const {
    return static_cast<uint8_t>(levels | (params_.bf16_scales ? wire::kBFloat16Scales : 0));
  }

  /// "Name()" with the arguments of a spec that are not their defaults; `arguments` come first.
  std::string spec_of(const char* name, std::string arguments, const std::string& more = "") const;

 private:
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  /// Where the group that begins with element i begins in a payload.
  size_t bytes_before(size_t i) const { return kernels::quantizer_bytes(i, params_); }

  kernels::QuantizerParams params_;
};

}  // namespace tsq
