#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace tsq::test {

/// n standard normal numbers.
inline std::vector<float> gaussian(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

}  // namespace tsq::test
