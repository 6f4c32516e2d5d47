// Random dithering: levels relative to a norm, rounded at random without bias. Format: docs/wire_format.md, codecs 9
// and 10; derivations: docs/algorithms.md. d = elements that share a norm: min(block, n), or n without blocks.
//
//   Dithering(levels=s, norm, block)         |x| / N to one of the multiples of 1/s around it
//     norm 2:   omega = sqrt(d)/s - 1 if s <= sqrt(d)/2 (exact), else at most d/(4 s^2)
//     norm max: omega = (sqrt(1 + (d-1)/s^2) - 1) / 2, exact
//   NaturalDithering(levels=s, norm, block)  |x| / N to one of {0, 2^(1-s), ..., 1/2, 1}
//     omega <= 1/8 + g min(1, g), g = 2^(1-s) sqrt(d)
//
// As contractive maps: as they are where omega < 1, B(1 - omega), else times 1/(1+omega), B(1/(1+omega)). An element of
// a block whose norm is below 2^-96 is sent as 0; the 16-bit dither biases an element by at most 2^-17 of a step.
#pragma once

#include "compressors/fused.h"
#include "compressors/script.h"
#include "kernels/dithering.h"

namespace tsq {

enum class Norm : uint8_t { kTwo, kMax };

struct DitheringConfig {
  int levels = 1;
  Norm norm = Norm::kTwo;
  uint32_t block = 0;        ///< elements that share a norm, a power of two from 32 to 65536; 0: all of a section
  bool contractive = false;  ///< not part of the spec: set by a mechanism
};

/// What the two share: everything but grid, names and constants.
class DitheredLevels : public FusedCompressor {
 public:
  const DitheringConfig& config() const { return config_; }

  std::string spec() const override;
  wire::Format format() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;
  size_t max_bytes(size_t n, DType dtype) const override;
  size_t zero_bytes(size_t n, DType dtype) const override;
  bool has_fixed_size() const override { return false; }
  double expected_bits(size_t n, DType dtype) const override;  ///< estimate for elements of similar size
  size_t granularity() const override { return config_.block > 256 ? config_.block : 256; }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;

 protected:
  /// Throws ArgumentError, which begins with `name`, unless levels are 1 to `max_levels` and the block is legal.
  DitheredLevels(const char* name, kernels::Grid grid, int max_levels, const DitheringConfig& config);

  /// omega for d elements with one norm, and script-L of a block.
  virtual double omega_of(double d) const = 0;
  virtual double script_of(const MetricBlock& block) const = 0;

  DitheringConfig config_for(bool contractive) const;

 private:
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;
  float shrink(size_t n) const;  ///< factor on what a level stands for
  size_t blocks(size_t n) const;
  /// Of the 8 rows of 32 elements of the tile that begins at element `begin` of n: what a level 1 stands for.
  void units(const uint8_t* scales, size_t n, size_t begin, float* rows) const;
  /// The values of the segment that begins at element `begin` of n.
  void segment_values(Bytes in, size_t n, size_t begin, const int16_t* levels, float* values) const;
  auto visit(std::span<const Bytes> in, size_t n, double scale) const;

  const char* name_;
  kernels::Grid grid_;
  DitheringConfig config_;
};

class Dithering final : public DitheredLevels {
 public:
  static constexpr int kMaxLevels = 32767;
  /// Throws ArgumentError unless levels are 1 to 32767 and the block is legal.
  explicit Dithering(const DitheringConfig& config)
      : DitheredLevels("Dithering", kernels::Grid::kUniform, kMaxLevels, config) {}
  CompressorPtr as_contractive() const override;
  CompressorPtr as_unbiased() const override;

 private:
  double omega_of(double d) const override;
  double script_of(const MetricBlock& block) const override;
};

class NaturalDithering final : public DitheredLevels {
 public:
  static constexpr int kMaxLevels = 30;
  /// Throws ArgumentError unless levels are 1 to 30 and the block is legal.
  explicit NaturalDithering(const DitheringConfig& config)
      : DitheredLevels("NaturalDithering", kernels::Grid::kPowers, kMaxLevels, config) {}
  CompressorPtr as_contractive() const override;
  CompressorPtr as_unbiased() const override;

 private:
  double omega_of(double d) const override;
  double script_of(const MetricBlock& block) const override;
};

}  // namespace tsq
