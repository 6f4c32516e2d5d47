#include "compressors/quantizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

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

Quantizer::Quantizer(const Config& config) : config_(config), params_(make_params(config)) {
  if (config.bits < 1 || config.bits > 8)
    throw ArgumentError(concat("Quantizer: bits: expected 1 to 8, got ", config.bits));
  if (config.block < 32 || config.block > 4096 || (config.block & (config.block - 1)))
    throw ArgumentError(concat("Quantizer: block: expected a power of two from 32 to 4096, got ", config.block));
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
  const bool fit = params_.rounding == kernels::Rounding::kFit;
  return {wire::Codec::kQuantizer, static_cast<uint8_t>(config_.bits),
          fit ? wire::Levels::kFit : wire::Levels::kUnbiased, config_.block};
}

Class Quantizer::class_of(size_t n) const {
  const double others = static_cast<double>(std::min<size_t>(config_.block, std::max<size_t>(n, 1)) - 1);
  const bool shrunk = params_.shrink != 1.0f;
  if (config_.bits == 1) {  // no level at zero: one non-zero element in a block is the worst input
    const double block = others + 1.0;
    switch (params_.rounding) {
      case kernels::Rounding::kFit:
        return {.omega = std::nullopt, .alpha = 1.0 / block};
      case kernels::Rounding::kNearest:
        return {.omega = std::nullopt, .alpha = shrunk ? std::optional(1.0 / (block * block)) : std::nullopt};
      case kernels::Rounding::kStochastic:
        return shrunk ? Class{.omega = std::nullopt, .alpha = 1.0 / block} : Class{.omega = others, .alpha = {}};
    }
  }
  const double s = static_cast<double>((1 << (config_.bits - 1)) - 1);
  if (params_.rounding != kernels::Rounding::kStochastic)
    return {.omega = std::nullopt, .alpha = 1.0 / (1.0 + others / (4.0 * s * s))};
  const double omega = 0.5 * (std::sqrt(1.0 + others / (s * s)) - 1.0);
  if (shrunk) return {.omega = std::nullopt, .alpha = 1.0 / (1.0 + omega)};
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

size_t Quantizer::max_bytes(size_t n, DType) const { return kernels::quantizer_bytes(n, config_.bits, config_.block); }

double Quantizer::expected_bits(size_t n, DType dtype) const { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

Compressor::Encoded Quantizer::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                   MutableBytes out) const {
  const bool finite = kernels::quantize(params_, form, x, state, key.philox, key.offset, out.data());
  return {max_bytes(x.numel, x.dtype), finite};
}

Compressor::Encoded Quantizer::encode(ConstView x, const EncodeKey& key, MutableBytes out) const {
  return run(kernels::Form::kPlain, x, nullptr, key, out);
}

Compressor::Encoded Quantizer::encode_residual(ConstView x, View e, const EncodeKey& key, MutableBytes out) const {
  return run(kernels::Form::kResidual, x, e.data, key, out);
}

Compressor::Encoded Quantizer::encode_shifted(ConstView x, View h, const EncodeKey& key, MutableBytes out) const {
  return run(kernels::Form::kShifted, x, h.data, key, out);
}

void Quantizer::validate(Bytes in, uint64_t n, DType dtype) const {
  // The first test keeps the length formula of a hostile n from overflowing: an element takes at least one bit.
  if (n > 8 * uint64_t{in.size()} || max_bytes(n, dtype) != in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  if (!kernels::valid_payload(params_, in.data(), n))
    throw WireError(
        concat("bad message: payload of ", spec(), ": expected finite scales and legal codes, found others"));
}

void Quantizer::decode_add(Bytes in, DType, double scale, View acc) const {
  kernels::dequantize_add(params_, in.data(), acc.numel, scale, acc);
}

void Quantizer::decode_mean(std::span<const Bytes> in, View out) const {
  std::array<const uint8_t*, 16> few{};  // most worlds need no allocation
  std::vector<const uint8_t*> many;
  const uint8_t** pointers = few.data();
  if (in.size() > few.size()) {
    many.resize(in.size());
    pointers = many.data();
  }
  for (size_t i = 0; i < in.size(); ++i) pointers[i] = in[i].data();
  kernels::dequantize_mean(params_, pointers, in.size(), out);
}

}  // namespace tsq
