#include "compressors/quantizer.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"

namespace tsq {

namespace {

kernels::QuantizerParams make_params(const Quantizer::Config& config) {
  kernels::QuantizerParams params;
  params.bits = config.bits;
  params.block = config.block;
  params.shrink = config.shrink;
  if (config.levels == QuantizerLevels::kFit)
    params.rounding = kernels::Rounding::kFit;
  else
    params.rounding = config.stochastic.value_or(true) ? kernels::Rounding::kStochastic : kernels::Rounding::kNearest;
  return params;
}

}  // namespace

Quantizer::Quantizer(const Config& config) : BlockCodes(make_params(config)), config_(config) {
  if (config.bits < 1 || config.bits > 8)
    throw ArgumentError(concat("Quantizer: bits: expected 1 to 8, got ", config.bits));
  check_block("Quantizer", config.block);
  if (config.levels == QuantizerLevels::kFit && config.stochastic.value_or(false))
    throw ArgumentError("Quantizer: rounding: expected None or 'nearest' with levels='fit', got 'stochastic'");
}

std::string Quantizer::spec() const {
  std::string out = concat("Quantizer(bits=", config_.bits);
  if (config_.block != 256) out += concat(", block=", config_.block);
  if (config_.levels) out += *config_.levels == QuantizerLevels::kFit ? ", levels='fit'" : ", levels='unbiased'";
  if (config_.stochastic) out += *config_.stochastic ? ", rounding='stochastic'" : ", rounding='nearest'";
  return out + ")";
}

wire::Format Quantizer::format() const {
  const bool fit = params().rounding == kernels::Rounding::kFit;
  return {wire::Codec::kQuantizer, static_cast<uint8_t>(config_.bits),
          fit ? wire::Levels::kFit : wire::Levels::kUnbiased, config_.block};
}

Class Quantizer::class_of(size_t n, uint32_t) const {
  const double block = static_cast<double>(std::min<size_t>(config_.block, std::max<size_t>(n, 1)));
  const double others = block - 1.0, shrink = params().shrink;
  const bool shrunk = params().shrink != 1.0f;
  const double s = static_cast<double>((1 << (config_.bits - 1)) - 1);
  switch (params().rounding) {
    case kernels::Rounding::kFit:
      return {.omega = std::nullopt, .alpha = config_.bits == 1 ? 1.0 / block : 1.0 / (1.0 + others / (4.0 * s * s))};
    case kernels::Rounding::kNearest:
      if (config_.bits > 1) return {.omega = std::nullopt, .alpha = 1.0 / (1.0 + others / (4.0 * s * s))};
      // |x - f N sign x|^2 <= |x|^2 - (2 f - n f^2) N^2 and |x|^2 <= n N^2
      return {.omega = std::nullopt,
              .alpha = shrunk ? std::optional((2.0 * shrink - block * shrink * shrink) / block) : std::nullopt};
    case kernels::Rounding::kStochastic:
    case kernels::Rounding::kSign:  // another compressor's
      break;
  }
  // One bit has no level at zero: one non-zero element in a block is the worst input.
  const double omega = config_.bits == 1 ? others : 0.5 * (std::sqrt(1.0 + others / (s * s)) - 1.0);
  // E|f C - x|^2 <= (1 - 2 f + f^2 (1 + omega)) |x|^2: 1 - f on a whole block, less on a vector shorter than that.
  if (shrunk) return {.omega = std::nullopt, .alpha = 2.0 * shrink - shrink * shrink * (1.0 + omega)};
  return {.omega = omega, .alpha = omega < 1.0 ? std::optional(1.0 - omega) : std::nullopt};
}

CompressorPtr Quantizer::as_contractive() const {
  Config config = config_;
  if (!config.levels)
    config.levels = config.stochastic.value_or(false) ? QuantizerLevels::kUnbiased : QuantizerLevels::kFit;
  const auto plain = std::make_shared<Quantizer>(config);
  const Class c = plain->class_of(config.block);
  if (c.alpha) return plain;
  // 1 / (1 + omega); the one-bit grid rounded to nearest is 1 / B as well: |x - (N/B) sign x|^2 <= (1 - 1/B^2) |x|^2.
  config.shrink = static_cast<float>(c.omega ? 1.0 / (1.0 + *c.omega) : 1.0 / config.block);
  return std::make_shared<Quantizer>(config);
}

CompressorPtr Quantizer::as_unbiased() const {
  Config config = config_;
  if (!config.levels) config.levels = QuantizerLevels::kUnbiased;
  return std::make_shared<Quantizer>(config);
}

}  // namespace tsq
