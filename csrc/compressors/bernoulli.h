// Bernoulli(p, value_dtype=): every coordinate with probability p, independently of the others. Format:
// docs/wire_format.md, codec 6. The probability used is p' = q / 2^32, q = round(2^32 p) at least 1; unbiased for p',
// value x / p': U(1/p' - 1), equality of the variance. As a contractive map unscaled: B(p'), equality in expectation.
#pragma once

#include "compressors/sparse_vector.h"

namespace tsq {

class Bernoulli final : public SparseVector {
 public:
  struct Config {
    double p = 1.0;  ///< in (0, 1]
    Values values = {};
    bool scaled = true;  ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless p is in its range.
  explicit Bernoulli(const Config& config);

  /// p' of the class comment.
  double probability() const;

  uint64_t max_entries(uint64_t n) const override;
  double expected_entries(uint64_t n) const override { return probability() * static_cast<double>(n); }

  std::string spec() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;
  CompressorPtr as_contractive() const override {
    return std::make_shared<Bernoulli>(Config{config_.p, values().contractive(), false});
  }
  CompressorPtr as_unbiased() const override {
    return std::make_shared<Bernoulli>(Config{config_.p, values().unbiased(), true});
  }

 private:
  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, the payload is the one of
  /// zeros and the state is untouched.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  Config config_;
  uint64_t threshold_;  // q
};

}  // namespace tsq
