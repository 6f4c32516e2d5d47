// Quantizer(bits, block, levels, rounding, scale_dtype): fixed-width codes, one scale per block. Format:
// docs/wire_format.md, codec 1.
//
//   levels "unbiased": symmetric grid up to the block's maximum, stochastic rounding: U(omega), the exact supremum over
//   inputs
//       omega = (sqrt(1 + (B-1)/s^2) - 1) / 2, s = 2^(bits-1) - 1; one bit, which has no level at zero: B - 1.
//       Unscaled it is also B(1 - omega) where omega < 1; with `shrink` = 1/(1+omega) it is B(1/(1+omega)) for every
//       width. rounding "nearest": B(1 / (1 + (B-1)/(4 s^2))); one bit only with `shrink` = 1/B: B(1/B^2).
//   levels "fit": 2^bits codes, nearest, the better of two grids per block and the least-squares scale <x,q>/<q,q>,
//   hence
//       |x - s q|^2 = |x|^2 - <x,q>^2/|q|^2: never worse than "nearest" (one bit: B(1/B)).
// Derivations: algorithm "random dithering with max norm", docs/algorithms.md.
#pragma once

#include "compressors/block_codes.h"

namespace tsq {

enum class QuantizerLevels : uint8_t { kUnbiased, kFit };

class Quantizer final : public BlockCodes {
 public:
  struct Config {
    int bits = 4;
    uint32_t block = 256;
    std::optional<QuantizerLevels> levels;  ///< none: unbiased, unless a mechanism resolves it otherwise
    std::optional<bool> stochastic;         ///< none: stochastic for unbiased; fit is always nearest
    bool bf16_scales = false;               ///< scales of 2 bytes
    float shrink = 1.0f;                    ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError for impossible combinations.
  explicit Quantizer(const Config& config);

  /// What reads a section's payload; wire::parse has checked the format.
  static std::shared_ptr<const Quantizer> reader_of(const wire::Format& format);

  const Config& config() const { return config_; }

  std::string spec() const override;
  wire::Format format() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  /// levels None -> fit (unless stochastic rounding was asked for). An unbiased grid with omega >= 1 has no guarantee
  /// inside error feedback and is shrunk by 1/(1+omega); below that it is contractive as it is and is left alone.
  CompressorPtr as_contractive() const override;
  CompressorPtr as_unbiased() const override;  ///< levels None -> unbiased

 private:
  Config config_;
};

}  // namespace tsq
