#include "compressors/widths.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tsq {

namespace {

// Fit, 1 to 8 bits: measured, Gaussian input, block 256 (tests/cpp/compressors/widths_test.cpp holds it to 3 %).
// Unbiased: s = 1/2 for one bit, 2^(b-1) - 1 above; in units of b = 2.
constexpr double kFitNoise[] = {0.3621, 0.1178, 0.03696, 0.01132, 0.003218, 0.0008, 0.0001964, 0.00004837};

/// One bit more for an item.
struct Gain {
  double value;  // noise that goes per unit of cost
  uint32_t item;
  bool before(const Gain& other) const { return value != other.value ? value > other.value : item < other.item; }
};

double cleaned(double weight) { return std::isfinite(weight) && weight > 0 ? weight : 0.0; }

/// Every step of every item, grouped by item.
std::vector<Gain> all_gains(std::span<const double> weights, std::span<const uint64_t> sizes,
                            const WidthLimits& limits) {
  std::vector<Gain> gains;
  gains.reserve(weights.size() * static_cast<size_t>(kMaxWidth - limits.least));
  for (size_t i = 0; i < weights.size(); ++i) {
    const double weight = cleaned(weights[i]) / static_cast<double>(sizes.empty() ? 1 : sizes[i]);
    for (int b = limits.least; b < kMaxWidth; ++b)
      gains.push_back(
          {weight * (relative_noise(limits.curve, b) - relative_noise(limits.curve, b + 1)), static_cast<uint32_t>(i)});
  }
  return gains;
}

constexpr auto kBefore = [](const Gain& a, const Gain& b) { return a.before(b); };

}  // namespace

double relative_noise(NoiseCurve curve, int bits) {
  if (curve == NoiseCurve::kFit) return kFitNoise[bits - 1];
  const double s = bits == 1 ? 0.5 : (1 << (bits - 1)) - 1;
  return 1.0 / (s * s);
}

std::vector<uint8_t> allocate_widths(std::span<const double> weights, uint64_t total, const WidthLimits& limits) {
  const auto least = static_cast<uint64_t>(limits.least);
  std::vector<uint8_t> widths(weights.size(), static_cast<uint8_t>(limits.least));
  std::vector<Gain> gains = all_gains(weights, {}, limits);
  const uint64_t given = least * weights.size(),
                 more = std::min<uint64_t>(total - std::min(total, given), gains.size());
  const auto middle = gains.begin() + static_cast<std::ptrdiff_t>(more);
  std::nth_element(gains.begin(), middle, gains.end(), kBefore);  // an item's equal gains are one and the same
  for (auto gain = gains.begin(); gain != middle; ++gain) ++widths[gain->item];
  return widths;
}

std::vector<uint8_t> allocate_widths(std::span<const double> weights, std::span<const uint64_t> sizes, uint64_t budget,
                                     const WidthLimits& limits) {
  std::vector<uint8_t> widths(weights.size(), static_cast<uint8_t>(limits.least));
  std::vector<Gain> gains = all_gains(weights, sizes, limits);
  std::stable_sort(gains.begin(), gains.end(), kBefore);
  const uint64_t given = static_cast<uint64_t>(limits.least) * std::accumulate(sizes.begin(), sizes.end(), uint64_t{0});
  uint64_t left = budget - std::min(budget, given);
  std::vector<bool> full(weights.size());
  for (const Gain& gain : gains) {
    if (full[gain.item]) continue;
    if (sizes[gain.item] > left) {
      full[gain.item] = true;  // its later bits remove less still
      continue;
    }
    left -= sizes[gain.item];
    ++widths[gain.item];
  }
  return widths;
}

}  // namespace tsq
