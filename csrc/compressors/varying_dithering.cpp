#include "compressors/varying_dithering.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/error.h"
#include "compressors/script.h"

namespace tsq {

VaryingDithering::VaryingDithering(const Config& config, std::optional<Tuning> tuning)
    : SteppedLevels("VaryingDithering", {.budget = config.budget, .contractive = config.contractive}, tuning),
      config_(config) {
  if (config.norm && *config.norm != 1 && *config.norm != 2)
    throw ArgumentError(concat("VaryingDithering: norm: expected 1 or 2, got ", *config.norm));
  if (!tuning) return;
  weights_ = weights_of(tuning->diagonal, tuning->n_mu, config.norm != 1);
  const double largest = weights_.empty() ? 0 : *std::max_element(weights_.begin(), weights_.end());
  std::vector<double> factors;
  for (double& w : weights_) {
    if (largest > 0) w /= largest;
    factors.push_back(std::sqrt(w));
  }
  set_factors(factors);
  equal_ = std::all_of(weights_.begin(), weights_.end(), [](double w) { return w == 1; });
}

std::string VaryingDithering::spec() const {
  return "VaryingDithering(" + config_.budget.text() + (config_.norm ? concat(", norm=", *config_.norm, ")") : ")");
}

CompressorPtr VaryingDithering::with(bool contractive, std::optional<Tuning> tuning) const {
  Config config = config_;
  config.contractive = contractive;
  return std::make_shared<VaryingDithering>(config, std::move(tuning));
}

void VaryingDithering::find_steps(const Scaled& z, std::span<const size_t> bounds, std::vector<double>& steps) const {
  const size_t n = bounds.back();
  const double beta = entries(n);
  if (!euclidean()) {
    steps[0] = z.sums(0, n).magnitudes / beta;
    return;
  }
  const double total =
      weights_.empty() ? static_cast<double>(n) : std::accumulate(weights_.begin(), weights_.end(), 0.0);
  steps[0] = std::sqrt(z.plain().sums(0, n).squares) * std::sqrt(total) / beta;
}

double VaryingDithering::bound(std::span<const double> metric) const {
  const double beta = entries(metric.size());
  const std::vector<double> w = weights_.empty() ? std::vector<double>(metric.size(), 1.0) : weights_;
  const std::vector<double> h = varying_steps(w, beta);
  double linear = 0, quarter = 0, aa = 0, cc = 0, ac = 0;
  for (size_t j = 0; j < w.size(); ++j) {
    if (w[j] == 0) continue;
    linear += metric[j] * h[j] * metric[j] * h[j];
    quarter += 0.25 * metric[j] * h[j] * h[j];
    aa += w[j], cc += metric[j] * metric[j] / w[j], ac += metric[j];
  }
  const double best = std::min(std::sqrt(linear), quarter);
  return euclidean() ? best : std::min(best, (ac + std::sqrt(aa * cc)) / (2 * beta));
}

double VaryingDithering::omega_of(size_t n) const {
  const double d = static_cast<double>(n), root = d / entries(n);
  if (equal_) return dithering_omega(root);
  return bound(std::vector<double>(n, 1.0));
}

std::optional<double> VaryingDithering::script_L(const Smoothness& L, size_t n, uint32_t) const {
  if (config_.contractive) return std::nullopt;
  if (n == 0) return 0.0;
  const std::vector<double> entries = L.diagonal(n);
  return std::min(bound(entries), omega_of(n) * *std::max_element(entries.begin(), entries.end()));
}

}  // namespace tsq
