#include "compressors/quantizer.h"

#include <algorithm>

#include "common/error.h"

namespace tsq {

namespace {

kernels::QuantizerParams make_params(const Quantizer::Config& config) {
  kernels::QuantizerParams params;
  params.bits = config.bits;
  params.block = config.block;
  params.shrink = config.shrink;
  params.bf16_scales = config.bf16_scales;
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

std::shared_ptr<const Quantizer> Quantizer::reader_of(const wire::Format& format) {
  Config config;
  config.bits = format.bits;
  config.block = format.block;
  config.levels = (format.variant & wire::kFit) != 0 ? QuantizerLevels::kFit : QuantizerLevels::kUnbiased;
  config.bf16_scales = (format.variant & wire::kBFloat16Scales) != 0;
  return std::make_shared<Quantizer>(config);
}

std::string Quantizer::spec() const {
  std::string more;
  if (config_.levels) more += *config_.levels == QuantizerLevels::kFit ? ", levels='fit'" : ", levels='unbiased'";
  if (config_.stochastic) more += *config_.stochastic ? ", rounding='stochastic'" : ", rounding='nearest'";
  return spec_of("Quantizer", concat("bits=", config_.bits), more);
}

wire::Format Quantizer::format() const {
  const bool fit = params().rounding == kernels::Rounding::kFit;
  return {wire::Codec::kQuantizer, static_cast<uint8_t>(config_.bits), variant(fit ? wire::kFit : wire::kUnbiased),
          config_.block};
}

Class Quantizer::class_of(size_t n, uint32_t) const {
  const bool bf16 = params().bf16_scales, shrunk = params().shrink != 1.0f, one_bit = config_.bits == 1;
  const int s = (1 << (config_.bits - 1)) - 1;
  const size_t block = longest_block(n);
  const auto count = static_cast<double>(block);
  switch (params().rounding) {
    case kernels::Rounding::kFit:
      return {.omega = std::nullopt,
              .alpha = (bf16 ? kBFloat16Share : 1.0) * (one_bit ? 1.0 / count : grid_alpha(s, block, false))};
    case kernels::Rounding::kNearest: {
      if (!one_bit) return {.omega = std::nullopt, .alpha = grid_alpha(s, block, bf16)};
      if (!shrunk) return {};
      // |x - f N sign x|^2 <= |x|^2 - (2 f - n f^2) N^2 and |x|^2 <= n N^2; the scale may be N (1 + 1/128)
      const auto kept = [&](double f) { return (2.0 * f - count * f * f) / count; };
      return {.omega = std::nullopt, .alpha = least_over_shrink([&](double f) {
                                       return std::min(kept(f), kept(bf16 ? f * (1.0 + 0x1p-7) : f));
                                     })};
    }
    case kernels::Rounding::kStochastic:
    case kernels::Rounding::kSign:  // another compressor's
      break;
  }
  // One bit has no level at zero: one non-zero element in a block is the worst input.
  const double omega = grid_omega(s, block, bf16);
  if (!shrunk) return {.omega = omega, .alpha = omega < 1.0 ? std::optional(1.0 - omega) : std::nullopt};
  // E|f C - x|^2 <= (1 - 2 f + f^2 (1 + omega)) |x|^2: 1 - f on a whole block, less on a vector shorter than that.
  return {.omega = std::nullopt, .alpha = least_over_shrink([&](double f) { return 2.0 * f - f * f * (1.0 + omega); })};
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
