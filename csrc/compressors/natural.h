// Natural(): every element to one of the two powers of two around it, at random, without bias. Format:
// docs/wire_format.md, codec 4. U(1/8), attained at 4/3 of a power of two; hence B(7/8) as it is. The 16-bit dither
// leaves a bias of at most 2^-17 of an element, and what is below 2^-126 is sent as 0. Source: docs/algorithms.md.
#pragma once

#include "compressors/fused.h"
#include "kernels/natural.h"

namespace tsq {

class Natural final : public FusedCompressor {
 public:
  std::string spec() const override { return "Natural()"; }
  wire::Format format() const override { return {.codec = wire::Codec::kNatural}; }
  Class class_of(size_t, uint32_t = 1) const override { return {.omega = 1.0 / 8, .alpha = 7.0 / 8}; }
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;
  CompressorPtr as_contractive() const override { return std::make_shared<Natural>(); }
  CompressorPtr as_unbiased() const override { return std::make_shared<Natural>(); }
  size_t max_bytes(size_t n, DType) const override { return kernels::natural_bytes(n); }
  double expected_bits(size_t n, DType) const override { return 8.0 * static_cast<double>(kernels::natural_bytes(n)); }
  size_t granularity() const override { return 256; }
  bool divisible() const override { return true; }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;

 private:
  /// An element (of x, e + x or x - h) from 2^127 on counts as not finite.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;
};

}  // namespace tsq
