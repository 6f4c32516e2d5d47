#include "compressors/sign.h"

#include "common/error.h"

namespace tsq {

Sign::Sign(uint32_t block, bool bf16_scales) : BlockCodes({1, block, kernels::Rounding::kSign, 1.0f, bf16_scales}) {
  check_block("Sign", block);
}

std::string Sign::spec() const { return spec_of("Sign", ""); }

wire::Format Sign::format() const { return {wire::Codec::kSign, 1, variant(wire::kUnbiased), params().block}; }

Class Sign::class_of(size_t n, uint32_t) const {
  const double share = params().bf16_scales ? kBFloat16Share : 1.0;
  return {.omega = std::nullopt, .alpha = share / static_cast<double>(longest_block(n))};
}

CompressorPtr Sign::as_contractive() const { return std::make_shared<Sign>(*this); }

CompressorPtr Sign::as_unbiased() const { return std::make_shared<Sign>(*this); }

}  // namespace tsq
