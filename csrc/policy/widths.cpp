#include "policy/widths.h"

#include <algorithm>
#include <cmath>

namespace tsq {

std::vector<double> error_costs(Metric metric, std::span<const double> moments, std::span<const double> curvatures,
                                double least_moment, double least_curvature) {
  std::vector<double> costs(moments.size(), 1.0);
  for (size_t r = 0; r < costs.size(); ++r) {
    if (metric == Metric::kSgd && r < curvatures.size())
      costs[r] = curvatures[r] > least_curvature ? curvatures[r] : least_curvature;
    if (metric == Metric::kAdam) costs[r] = 1.0 / std::sqrt(std::max(moments[r], least_moment));
    if (!std::isfinite(costs[r]) || costs[r] <= 0) costs[r] = 1.0;
  }
  return costs;
}

std::vector<double> share_bits(std::span<const WidthShare> parameters, double average, const WidthLimits& limits) {
  std::vector<double> weights;
  for (const WidthShare& p : parameters)
    for (size_t r = 0; r < p.costs.size(); ++r) weights.push_back(p.costs[r] * p.moments[r]);
  const auto total = static_cast<uint64_t>(std::floor(average * static_cast<double>(weights.size())));
  const std::vector<uint8_t> widths = allocate_widths(weights, total, limits);
  std::vector<double> bits;
  size_t at = 0;
  for (const WidthShare& p : parameters) {
    uint64_t sum = 0;
    for (size_t r = 0; r < p.costs.size(); ++r) sum += widths[at++];
    const auto runs = static_cast<double>(p.costs.size());
    // A quarter more than whole, so that rounding cannot turn floor(bits * runs) into one less.
    bits.push_back(p.costs.empty() ? average : std::min<double>((static_cast<double>(sum) + 0.25) / runs, kMaxWidth));
  }
  return bits;
}

}  // namespace tsq
