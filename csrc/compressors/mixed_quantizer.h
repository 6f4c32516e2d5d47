// Quantizer(bits=2.5): an average width. The vector is cut into runs of blocks, each coded with 1 to 8 bits of its own,
// so that those with more energy (times a weight, where a plan gives some) get more. Format: docs/wire_format.md, codec
// 1 with bits = 0.
//
//   A payload has always the same length: the whole runs share floor(bits * runs) bits of width, a shorter last run has
//   floor(bits). Widths: compressors/widths.h, from
//       weight_r * (sum of squares of the run).
//   Concatenation of blocks: omega and alpha are those of the narrowest width that can occur, 1 bit (levels "unbiased":
//   2 bits where the average allows it, since one bit has no level at zero).
#pragma once

#include <array>

#include "compressors/quantizer.h"
#include "compressors/widths.h"

namespace tsq {

class MixedQuantizer final : public FusedCompressor {
 public:
  static constexpr size_t kRun = 1024;  ///< elements of a run, or a block's if that is longer

  /// `bits`: the average, 1 to 8. `like`: everything else (its bits and shrink are not looked at), the widths' open
  /// choices made as for a contractive map if `contractive`. Throws ArgumentError.
  MixedQuantizer(double bits, const Quantizer::Config& like, bool contractive = false);

  /// What reads a section's payload: of any average.
  static std::shared_ptr<const MixedQuantizer> reader_of(const wire::Format& format);

  double bits() const { return bits_; }
  size_t run() const { return std::max<size_t>(kRun, like_.block); }
  int least() const;  ///< the narrowest width
  NoiseCurve curve() const { return like_.levels == QuantizerLevels::kFit ? NoiseCurve::kFit : NoiseCurve::kUnbiased; }

  std::string spec() const override;
  wire::Format format() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override;
  CompressorPtr as_unbiased() const override;
  size_t max_bytes(size_t n, DType dtype) const override;
  double expected_bits(size_t n, DType dtype) const override { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }
  Capacity capacity(DType dtype) const override;
  size_t granularity() const override { return run(); }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;

 private:
  /// Where the runs of one payload lie: begin[r] in bytes, and their widths.
  struct Runs {
    std::vector<uint8_t> widths;
    std::vector<size_t> begin;  // one more than runs: the last is the end
  };

  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;
  std::vector<uint8_t> choose(kernels::Form form, ConstView x, const void* state, const EncodeKey& key) const;
  Runs place(std::vector<uint8_t> widths, size_t n) const;
  Runs read(Bytes in, size_t n) const;
  int tail_width() const;
  const Quantizer& of_width(int width) const { return *by_width_[static_cast<size_t>(width - 1)]; }
  size_t length(size_t r, size_t n) const { return std::min(run(), n - r * run()); }
  size_t runs_of(size_t n) const { return (n + run() - 1) / run(); }

  double bits_;
  Quantizer::Config like_;
  std::array<std::shared_ptr<const Quantizer>, kMaxWidth> by_width_;
};

}  // namespace tsq
