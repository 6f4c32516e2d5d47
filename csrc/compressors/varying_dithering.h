// VaryingDithering(budget, norm): random dithering whose steps follow from the expected number of non-zeros, and with a
// smoothness differ from coordinate to coordinate as is best for it. Format: docs/wire_format.md, codec 13 with one
// block. Sources: Wang, Safaryan, Richtarik, 2022 (norm 2); the l1 form and all constants: docs/smoothness.md.
//
//   weights A_j: 1; with a smoothness L_jj; for DIANA+ sqrt(1 + (L_jj/(n mu))^2), with norm=1 1 + L_jj/(n mu)
//   norm 1   step_j = sum_l sqrt(A_l)|x_l| / (beta sqrt(A_j))       E |levels|_1 = beta
//   norm 2   step_j = |x|_2 sqrt(sum A / A_j) / beta
//   E non-zeros <= beta; omega <= min(|h|_2, |h|_2^2 / 4), script-L <= min(|Diag(L) h|_2, sum L_jj h_j^2 / 4),
//   h_j = sqrt(sum A / A_j) / beta; norm 1 also script-L <= (a.c + |a| |c|) / (2 beta), a = sqrt(A), c = L_jj / sqrt(A)
//   (and omega with L = I); tr(L)/beta where A = L. Equal weights: omega = d/beta - 1 for beta <= d/2, the supremum,
//   else d^2 / (4 beta^2).
#pragma once

#include "compressors/stepped_levels.h"

namespace tsq {

class VaryingDithering final : public SteppedLevels {
 public:
  struct Config {
    Budget budget;
    std::optional<int> norm;   ///< 1 or 2; none: 1 where all weights are equal, else 2
    bool contractive = false;  ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless the budget and the norm are possible.
  explicit VaryingDithering(const Config& config, std::optional<Tuning> tuning = {});

  std::string spec() const override;
  CompressorPtr as_contractive() const override { return with(true, tuning()); }
  CompressorPtr as_unbiased() const override { return with(false, tuning()); }
  CompressorPtr tuned(const Tuning& tuning) const override { return with(config_.contractive, tuning); }
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;

 private:
  CompressorPtr with(bool contractive, std::optional<Tuning> tuning) const;
  bool euclidean() const { return config_.norm.value_or(equal_ ? 1 : 2) == 2; }
  double omega_of(size_t n) const override;
  void find_steps(const Scaled& z, std::span<const size_t> bounds, std::vector<double>& steps) const override;
  /// script-L, or omega for metric 1, by the bounds above; `metric` is positive where weights are.
  double bound(std::span<const double> metric) const;

  Config config_;
  std::vector<double> weights_;  // divided by the largest; none: all 1
  bool equal_ = true;            // all weights are 1
};

}  // namespace tsq
