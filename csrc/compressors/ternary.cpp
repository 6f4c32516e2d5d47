#include "compressors/ternary.h"

#include "common/error.h"

namespace tsq {

Ternary::Ternary(uint32_t block, bool bf16_scales, float shrink)
    : BlockCodes({2, block, kernels::Rounding::kStochastic, shrink, bf16_scales}) {
  check_block("Ternary", block);
}

std::string Ternary::spec() const { return spec_of("Ternary", ""); }

wire::Format Ternary::format() const { return {wire::Codec::kTernary, 2, variant(wire::kUnbiased), params().block}; }

Class Ternary::class_of(size_t n, uint32_t) const {
  const double omega = grid_omega(1, longest_block(n), params().bf16_scales);
  if (params().shrink == 1.0f)
    return {.omega = omega, .alpha = omega < 1.0 ? std::optional(1.0 - omega) : std::nullopt};
  // E|s C - x|^2 <= (1 - 2 s + s^2 (1 + omega)) |x|^2: 1 - s on a whole block, less on a vector shorter than that.
  return {.omega = std::nullopt, .alpha = least_over_shrink([&](double s) { return 2.0 * s - s * s * (1.0 + omega); })};
}

CompressorPtr Ternary::as_contractive() const {
  const double omega = grid_omega(1, params().block, params().bf16_scales);
  return std::make_shared<Ternary>(params().block, params().bf16_scales, static_cast<float>(1.0 / (1.0 + omega)));
}

CompressorPtr Ternary::as_unbiased() const { return std::make_shared<Ternary>(params().block, params().bf16_scales); }

}  // namespace tsq
