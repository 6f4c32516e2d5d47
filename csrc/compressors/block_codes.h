// What the codecs with fixed-width codes and a scale per block share: everything but names, classes and choices.
// Payloads: docs/wire_format.md, codecs 1 to 3.
#pragma once

#include "compressors/fused.h"
#include "kernels/quantizer.h"

namespace tsq {

class BlockCodes : public FusedCompressor {
 public:
  size_t max_bytes(size_t n, DType dtype) const override;
  double expected_bits(size_t n, DType dtype) const override;
  size_t granularity() const override { return params_.group(); }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;

 protected:
  /// `params` must be legal; check_block() helps.
  explicit BlockCodes(const kernels::QuantizerParams& params) : params_(params) {}

  /// Throws ArgumentError, which begins with `name`, unless `block` is a power of two from 32 to 4096.
  static void check_block(const char* name, uint32_t block);

  const kernels::QuantizerParams& params() const { return params_; }

 private:
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  /// Where the group that begins with element i begins in a payload.
  size_t bytes_before(size_t i) const { return kernels::quantizer_bytes(i, params_.bits, params_.block); }

  kernels::QuantizerParams params_;
};

}  // namespace tsq
