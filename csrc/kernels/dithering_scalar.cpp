// The oracle: docs/wire_format.md, codecs 9 and 10, in plain loops.
#include <algorithm>

#include "kernels/cpu/block.h"
#include "kernels/dithering.h"
#include "kernels/scalar.h"

namespace tsq::kernels {

void level_values(Grid grid, const float* unit, const int16_t* levels, size_t m, float* values) {
  for (size_t begin = 0; begin < m; begin += kLanes) {
    const size_t end = std::min(m, begin + kLanes);
    const float f = unit[begin / kLanes];
    if (grid == Grid::kUniform) {
      for (size_t i = begin; i < end; ++i) values[i] = static_cast<float>(levels[i]) * f;
      continue;
    }
    for (size_t i = begin; i < end; ++i) {
      const int level = levels[i], c = level < 0 ? -level : level;
      const uint32_t bits = c == 0 ? 0u : static_cast<uint32_t>(c + 126) << 23;
      values[i] = std::bit_cast<float>(bits | (level < 0 ? kSignBit : 0u)) * f;
    }
  }
}

namespace scalar {
namespace {

int uniform_level(float t, uint32_t r, int s) {
  const float u = std::bit_cast<float>(0x3F800040u | r << 7) - 1.5f;
  const float rounded = ((t + u) + kRounder) - kRounder;
  return static_cast<int>(std::min(std::max(rounded, static_cast<float>(-s)), static_cast<float>(s)));
}

int power_level(float t, uint32_t r, int s) {
  const uint32_t magnitude = magnitude_bits(t);
  const float probability = std::bit_cast<float>(magnitude);
  const int below = probability + (std::bit_cast<float>(0x3F800040u | r << 7) - 1.0f) >= 1.0f;
  const int level = static_cast<int>((magnitude + (r << 7 | 64u)) >> 23) - 126;
  const int c = std::min(probability < 1.0f ? below : level, s);
  return std::bit_cast<uint32_t>(t) & kSignBit ? -c : c;
}

}  // namespace

double square_sum(const float* z, size_t m) {
  double lanes[kLanes] = {};
  for (size_t j = 0; j < m; ++j) lanes[j % kLanes] += static_cast<double>(z[j]) * static_cast<double>(z[j]);
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

uint32_t largest_magnitude(const float* z, size_t m) {
  uint32_t largest = 0;
  for (size_t i = 0; i < m; ++i) largest = std::max(largest, magnitude_bits(z[i]));
  return largest;
}

void dither_levels(Grid grid, int s, const float* inverse, const float* z, PhiloxKey key, uint64_t offset,
                   int16_t* levels) {
  for (size_t i = 0; i < kTile; ++i) {
    const float t = z[i] * inverse[i / kLanes];
    const uint32_t r = dither_bits(key, offset + i);
    levels[i] = static_cast<int16_t>(grid == Grid::kUniform ? uniform_level(t, r, s) : power_level(t, r, s));
  }
}

}  // namespace scalar
}  // namespace tsq::kernels
