// The compressor of what is not sent: no bytes, zeros out. Mechanisms that skip a step write its sections (codec 12).
#pragma once

#include <algorithm>

#include "common/convert.h"
#include "common/error.h"
#include "compressors/fused.h"

namespace tsq {

class Nothing final : public FusedCompressor {
 public:
  std::string spec() const override { return "nothing"; }
  wire::Format format() const override { return {.codec = wire::Codec::kNothing}; }
  Class class_of(size_t, uint32_t = 1) const override { return {}; }
  CompressorPtr as_contractive() const override { return std::make_shared<Nothing>(); }
  CompressorPtr as_unbiased() const override { return std::make_shared<Nothing>(); }
  size_t max_bytes(size_t, DType) const override { return 0; }
  double expected_bits(size_t, DType) const override { return 0; }
  size_t granularity() const override { return 1; }

  void validate(Bytes in, uint64_t, DType) const override {
    if (!in.empty()) throw_wire("bytes", 0, in.size());
  }
  void decode_add(Bytes, DType, double, View) const override {}
  void decode_mean(std::span<const Bytes>, View out) const override {
    if (out.numel) std::memset(out.data, 0, out.numel * size_of(out.dtype));
  }

 private:
  Encoded run(kernels::Form, ConstView, void*, const EncodeKey&, MutableBytes) const override { return {}; }
};

}  // namespace tsq
