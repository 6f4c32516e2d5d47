// Base of the ditherings whose steps follow from a budget: levels are multiples of one step per block, which travels.
// Format: docs/wire_format.md, codec 13. They differ in how the step is found.
//
// With a tuning every element x_j is first multiplied by a factor, and what is decoded divided by it, so that its own
// step is step / factor: both ends know the factors from the smoothness that both are given.
#pragma once

#include "compressors/budget.h"
#include "compressors/fused.h"
#include "compressors/quantity.h"

namespace tsq {

struct SteppedConfig {
  Budget budget;
  uint32_t blocks = 1;  ///< norms, 1 to 65536
  bool bf16_scales = false;
  bool contractive = false;  ///< not part of the spec: set by a mechanism
};

class Scaled;

class SteppedLevels : public FusedCompressor {
 public:
  static constexpr uint32_t kMaxBlocks = 65536;

  wire::Format format() const final;
  Class class_of(size_t n, uint32_t world_size = 1) const final;
  size_t max_bytes(size_t n, DType dtype) const final;
  size_t zero_bytes(size_t n, DType dtype) const final;
  bool has_fixed_size() const final { return false; }
  double expected_bits(size_t n, DType dtype) const final;  ///< a bound: elias_budget_bits
  size_t granularity() const final { return 256; }
  void check_numel(size_t n) const final;

  void validate(Bytes in, uint64_t n, DType dtype) const final;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const final;
  void decode_mean(std::span<const Bytes> in, View out) const final;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const final;

 protected:
  /// Throws ArgumentError, which begins with `name`, if the budget or the blocks are impossible.
  SteppedLevels(const char* name, const SteppedConfig& config, std::optional<Tuning> tuning);

  const SteppedConfig& config() const { return config_; }
  const std::optional<Tuning>& tuning() const { return tuning_; }
  size_t norms(size_t n) const { return n < config_.blocks ? n : config_.blocks; }

  /// Expected non-zeros of n elements; 0 if the budget leaves none.
  double entries(size_t n) const;
  /// Norms that an absolute budget counts.
  virtual size_t counted(size_t) const { return 0; }

  /// The factors on elements, one each; none without a tuning.
  void set_factors(const std::vector<double>& factors);

  /// omega of the map on n > 0 elements.
  virtual double omega_of(size_t n) const = 0;
  /// The step of each of the blocks, which begin at `bounds`, from `z`: the elements times their factors. Not finite
  /// where an element is not.
  virtual void find_steps(const Scaled& z, std::span<const size_t> bounds, std::vector<double>& steps) const = 0;

 private:
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const final;
  /// What accumulate.h calls visit.
  auto visit(std::span<const Bytes> in, size_t n, double scale) const;
  size_t scale_bytes(size_t n) const { return norms(n) * (config_.bf16_scales ? 2 : 4); }
  float scale_at(const uint8_t* in, size_t block) const;
  /// The values of the segment that begins at element `begin` of n.
  void segment_values(Bytes in, size_t n, size_t begin, const int16_t* levels, float* values) const;

  const char* name_;
  SteppedConfig config_;
  std::optional<Tuning> tuning_;
  std::vector<float> factors_, inverse_factors_;
};

/// What is compressed, times the factors, in float32.
class Scaled {
 public:
  Scaled(const Quantity& quantity, std::span<const float> factors) : quantity_(quantity), factors_(factors) {}
  /// Elements [begin, begin + count).
  void load(size_t begin, size_t count, float* z) const {
    quantity_.load(begin, count, z);
    if (factors_.empty()) return;
    for (size_t i = 0; i < count; ++i) z[i] *= factors_[begin + i];
  }
  /// Sums of magnitudes and of squares, and the largest magnitude, of elements [begin, end): tiles of 256 from `begin`
  /// on, each in 32 lanes and a tree, in double. Not finite where an element is not.
  struct Sums {
    double magnitudes = 0, squares = 0;
    float largest = 0;
  };
  Sums sums(size_t begin, size_t end) const;
  /// Without the factors.
  Scaled plain() const { return Scaled(quantity_, {}); }

 private:
  const Quantity& quantity_;
  std::span<const float> factors_;
};

}  // namespace tsq
