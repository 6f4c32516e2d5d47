// Dithering's kernels: norms of pieces of a vector, and random levels of elements relative to a norm. Definition:
// docs/wire_format.md, codecs 9 and 10. Rules as in quantizer.h: SIMD here and the oracle in tsq::kernels::scalar, the
// same results; nothing allocates or throws. A tile is 256 elements in float32, finite where not said otherwise.
#pragma once

#include "kernels/quantizer.h"

namespace tsq::kernels {

enum class Grid : uint8_t {
  kUniform,  ///< level q stands for q units
  kPowers,   ///< level +-c stands for +-2^(c-1) units, 0 for 0
};

/// What a level of `s` stands for, in units: the inverse of the distance of zero and its neighbour.
constexpr double units_of_top(Grid grid, int s) {
  return grid == Grid::kUniform ? double(s) : double(uint64_t{1} << (s - 1));
}

/// Sum of squares of m <= 256 elements in double: element j in lane j mod 32, lanes in ascending order, then a tree.
/// Not finite where an element is not.
double square_sum(const float* z, size_t m);

/// The largest bit pattern without sign of m elements.
uint32_t largest_magnitude(const float* z, size_t m);

/// Levels of one tile: of z[i] * inverse[i / 32] units, rounded at random without bias, not beyond `s`. `inverse` has
/// 8 elements, finite. `offset` is the place of z[0] in its parameter, a multiple of 256.
void dither_levels(Grid grid, int s, const float* inverse, const float* z, PhiloxKey key, uint64_t offset,
                   int16_t* levels);

/// values[i] = what levels[i] stands for times unit[i / 32], for m <= 256 elements; one fp32 multiplication.
void level_values(Grid grid, const float* unit, const int16_t* levels, size_t m, float* values);

namespace scalar {
double square_sum(const float* z, size_t m);
uint32_t largest_magnitude(const float* z, size_t m);
void dither_levels(Grid grid, int s, const float* inverse, const float* z, PhiloxKey key, uint64_t offset,
                   int16_t* levels);
}  // namespace scalar

}  // namespace tsq::kernels
