// Sign(block, scale_dtype): plus or minus the block's mean magnitude. Format: docs/wire_format.md, codec 2.
//   |C(x) - x|^2 = |x|^2 - |x|_1^2 / B per block of B elements, hence B(1 / B), or with 16-bit scales
//   B((1 - 2^-16) / B); biased. Source: docs/algorithms.md.
#pragma once

#include "compressors/block_codes.h"

namespace tsq {

class Sign final : public BlockCodes {
 public:
  /// bf16_scales: scales of 2 bytes. Throws ArgumentError unless `block` is a power of two from 32 to 4096.
  explicit Sign(uint32_t block = 256, bool bf16_scales = false);

  std::string spec() const override;
  wire::Format format() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override;
  CompressorPtr as_unbiased() const override;  ///< itself: there is no unbiased Sign
};

}  // namespace tsq
