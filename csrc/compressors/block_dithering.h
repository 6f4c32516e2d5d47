// BlockDithering(blocks, budget, steps, scale_dtype): random dithering with a 2-norm and a step for each of B blocks of
// equal size. Format: docs/wire_format.md, codec 13. The steps relative to the norms solve min max_l h_l A_l under the
// budget (budget.h), A_l = sqrt(d_l); with a smoothness |diag L_ll|_2, for DIANA+ sqrt(d_l) + |diag L_ll|_2 / (n mu).
// steps='uniform': one h for all. Source: Wang, Safaryan, Richtarik, 2022; docs/smoothness.md.
//
//   omega <= max_l g(h_l sqrt(d_l)), g(u) = u - 1 for u >= 2, else u^2 / 4
//   script-L <= max_l min(h_l |diag L_ll|_2, h_l^2 tr(L_ll) / 4, g max L_jj)
//   E non-zeros <= sum_l sqrt(d_l) / h_l
#pragma once

#include "compressors/stepped_levels.h"

namespace tsq {

class BlockDithering final : public SteppedLevels {
 public:
  struct Config {
    uint32_t blocks = 1;
    Budget budget;  ///< counts every norm as 1
    bool uniform = false;
    bool bf16_scales = false;
    bool contractive = false;  ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless the budget and the blocks are possible.
  explicit BlockDithering(const Config& config, std::optional<Tuning> tuning = {})
      : SteppedLevels("BlockDithering",
                      {.budget = config.budget,
                       .blocks = config.blocks,
                       .bf16_scales = config.bf16_scales,
                       .contractive = config.contractive},
                      std::move(tuning)),
        config_(config) {}

  /// What reads a section's payload; wire::parse has checked the format.
  static CompressorPtr reader_of(const wire::Format& format);

  std::string spec() const override;
  CompressorPtr as_contractive() const override { return with(true, tuning()); }
  CompressorPtr as_unbiased() const override { return with(false, tuning()); }
  CompressorPtr tuned(const Tuning& tuning) const override { return with(config_.contractive, tuning); }
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;

  /// h_l of n > 0 elements.
  std::vector<double> relative_steps(size_t n) const;

 private:
  CompressorPtr with(bool contractive, std::optional<Tuning> tuning) const;
  size_t counted(size_t n) const override { return norms(n); }
  double omega_of(size_t n) const override;
  void find_steps(const Scaled& z, std::span<const size_t> bounds, std::vector<double>& steps) const override;

  Config config_;
};

}  // namespace tsq
