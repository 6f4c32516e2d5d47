#include "compressors/ternary.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"

namespace tsq {

namespace {

double omega_of(size_t block) { return 0.5 * (std::sqrt(static_cast<double>(block)) - 1.0); }

}  // namespace

Ternary::Ternary(uint32_t block, float shrink) : BlockCodes({2, block, kernels::Rounding::kStochastic, shrink}) {
  check_block("Ternary", block);
}

std::string Ternary::spec() const {
  return params().block == 256 ? "Ternary()" : concat("Ternary(block=", params().block, ")");
}

wire::Format Ternary::format() const { return {wire::Codec::kTernary, 2, wire::Levels::kUnbiased, params().block}; }

Class Ternary::class_of(size_t n, uint32_t) const {
  const double omega = omega_of(std::min<size_t>(params().block, std::max<size_t>(n, 1)));
  if (params().shrink == 1.0f)
    return {.omega = omega, .alpha = omega < 1.0 ? std::optional(1.0 - omega) : std::nullopt};
  // E|s C - x|^2 <= (1 - 2 s + s^2 (1 + omega)) |x|^2: 1 - s on a whole block, less on a vector shorter than that.
  const double s = params().shrink;
  return {.omega = std::nullopt, .alpha = 2.0 * s - s * s * (1.0 + omega)};
}

CompressorPtr Ternary::as_contractive() const {
  return std::make_shared<Ternary>(params().block, static_cast<float>(1.0 / (1.0 + omega_of(params().block))));
}

CompressorPtr Ternary::as_unbiased() const { return std::make_shared<Ternary>(params().block); }

}  // namespace tsq
