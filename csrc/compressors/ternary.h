// Ternary(block, scale_dtype): minus, zero or plus the block's largest magnitude N, at random, without bias: +-N with
// probability |x| / N. Format: docs/wire_format.md, codec 3. U(omega), omega = (sqrt(B) - 1) / 2, the exact supremum;
// with `shrink` = 1 / (1 + omega) it is B(1 / (1 + omega)). The map and the kernels are those of the quantizer's
// unbiased two-bit grid.
#pragma once

#include "compressors/block_codes.h"

namespace tsq {

class Ternary final : public BlockCodes {
 public:
  /// bf16_scales: scales of 2 bytes. `shrink` is not part of the spec: set by a mechanism. Throws ArgumentError unless
  /// `block` is a power of two from 32 to 4096.
  explicit Ternary(uint32_t block = 256, bool bf16_scales = false, float shrink = 1.0f);

  std::string spec() const override;
  wire::Format format() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override;  ///< shrunk by 1 / (1 + omega): omega >= 1 for every legal block
  CompressorPtr as_unbiased() const override;
  float shrink() const { return params().shrink; }
};

}  // namespace tsq
