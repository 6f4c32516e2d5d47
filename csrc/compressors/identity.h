// Identity: the vector itself, in its own dtype. omega = 0, alpha = 1.
#pragma once

#include "compressors/compressor.h"

namespace tsq {

class Identity final : public Compressor {
 public:
  std::string spec() const override { return "Identity()"; }
  wire::Format format() const override { return {}; }
  Class class_of(size_t, uint32_t = 1) const override { return {.omega = 0.0, .alpha = 1.0}; }
  CompressorPtr as_contractive() const override { return std::make_shared<Identity>(); }
  CompressorPtr as_unbiased() const override { return std::make_shared<Identity>(); }
  size_t max_bytes(size_t n, DType dtype) const override { return n * size_of(dtype); }
  double expected_bits(size_t n, DType dtype) const override { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }
  size_t granularity() const override { return 1; }
  bool divisible() const override { return true; }

  Encoded encode(ConstView x, const EncodeKey& key, MutableBytes out) const override;
  Encoded encode_residual(ConstView x, View e, const EncodeKey& key, MutableBytes out) const override;
  Encoded encode_shifted(ConstView x, View h, const EncodeKey& key, MutableBytes out) const override;
  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;
};

}  // namespace tsq
