#include "compressors/block_dithering.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "compressors/script.h"

namespace tsq {

std::string BlockDithering::spec() const {
  return concat("BlockDithering(blocks=", config_.blocks, ", ", config_.budget.text(),
                config_.uniform ? ", steps='uniform'" : "", config_.bf16_scales ? ", scale_dtype='bf16'" : "", ")");
}

CompressorPtr BlockDithering::reader_of(const wire::Format& format) {
  Config config;
  config.blocks = format.block;
  config.budget.ratio = 1.0;  // how it was encoded does not matter
  config.bf16_scales = (format.variant & wire::kBFloat16Steps) != 0;
  return std::make_shared<BlockDithering>(config);
}

CompressorPtr BlockDithering::with(bool contractive, std::optional<Tuning> tuning) const {
  Config config = config_;
  config.contractive = contractive;
  return std::make_shared<BlockDithering>(config, std::move(tuning));
}

std::vector<double> BlockDithering::relative_steps(size_t n) const {
  const std::vector<size_t> bounds = block_bounds(n, norms(n));
  const double beta = entries(n) + static_cast<double>(norms(n));
  if (tuning()) {
    const BlockRule rule = config_.uniform ? BlockRule::kUniform : BlockRule::kTight;
    return block_steps(tuning()->diagonal, bounds, beta, tuning()->n_mu, rule);
  }
  return plain_block_steps(bounds, beta, config_.uniform);
}

void BlockDithering::find_steps(const Scaled& z, std::span<const size_t> bounds, std::vector<double>& steps) const {
  const std::vector<double> h = relative_steps(bounds.back());
  for (size_t l = 0; l < h.size(); ++l)
    steps[l] = std::isfinite(h[l]) ? std::sqrt(z.sums(bounds[l], bounds[l + 1]).squares) * h[l] : 0;
}

double BlockDithering::omega_of(size_t n) const {
  const std::vector<size_t> bounds = block_bounds(n, norms(n));
  const std::vector<double> h = relative_steps(n);
  double largest = 0;
  for (size_t l = 0; l < h.size(); ++l)
    if (std::isfinite(h[l]))
      largest = std::max(largest, dithering_omega(h[l] * std::sqrt(static_cast<double>(bounds[l + 1] - bounds[l]))));
  return entries(n) > 0 ? largest : HUGE_VAL;
}

std::optional<double> BlockDithering::script_L(const Smoothness& L, size_t n, uint32_t) const {
  if (config_.contractive) return std::nullopt;
  if (n == 0) return 0.0;
  const std::vector<double> diagonal = L.diagonal(n), h = relative_steps(n);
  const std::vector<size_t> bounds = block_bounds(n, norms(n));
  double largest = 0;
  for (size_t l = 0; l < h.size(); ++l)
    if (std::isfinite(h[l]))
      largest = std::max(largest, dithering_script(block_of(diagonal, bounds[l], bounds[l + 1]), h[l]));
  return largest;
}

}  // namespace tsq
