// SmoothBernoulli(budget, value_dtype=): every coordinate with its own probability p_j, independently, divided by it;
// sum p_j is the budget. Format: docs/wire_format.md, codec 6. p_j = tau / d; with a smoothness A_j / (A_j + rho),
// which equalises (1/p_j - 1) A_j; A_j = L_jj, for DIANA+ 1 + L_jj / (n mu). Sources: Safaryan, Hanzely, Richtarik,
// 2021, and Wang, Safaryan, Richtarik, 2022, whose code does not divide by p_j; docs/smoothness.md.
//
//   U(max_j 1/p_j - 1); script-L = max_j (1/p_j - 1) L_jj, both exact. As a contractive map unscaled: B(min p_j).
// Probabilities are multiples of 2^-32; a coordinate with L_jj = 0 is not sent (DCGD+).
#pragma once

#include "compressors/budget.h"
#include "compressors/sparse_vector.h"

namespace tsq {

class SmoothBernoulli final : public SparseVector {
 public:
  struct Config {
    Budget budget;  ///< bits: those of float32 values, or of value_dtype, at the expected number of entries
    Values values = {};
    bool scaled = true;  ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless the budget is possible.
  explicit SmoothBernoulli(const Config& config, std::optional<Tuning> tuning = {});

  uint64_t max_entries(uint64_t n) const override;
  double expected_entries(uint64_t n) const override;

  std::string spec() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override { return with(values().contractive(), false, tuning_); }
  CompressorPtr as_unbiased() const override { return with(values().unbiased(), true, tuning_); }
  CompressorPtr tuned(const Tuning& tuning) const override { return with(values(), config_.scaled, tuning); }
  void check_numel(size_t n) const override;
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;

  /// The probability of element j of n, a multiple of 2^-32.
  double probability(size_t j, size_t n) const;

 private:
  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, the payload is the one of
  /// zeros and the state is untouched.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;
  CompressorPtr with(const Values& values, bool scaled, std::optional<Tuning> tuning) const;

  Config config_;
  std::optional<Tuning> tuning_;
  std::vector<uint64_t> thresholds_;  // 2^32 p_j; none without a tuning
};

}  // namespace tsq
