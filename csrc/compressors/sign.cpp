#include "compressors/sign.h"

#include <algorithm>

#include "common/error.h"

namespace tsq {

Sign::Sign(uint32_t block) : BlockCodes({1, block, kernels::Rounding::kSign, 1.0f}) { check_block("Sign", block); }

std::string Sign::spec() const { return params().block == 256 ? "Sign()" : concat("Sign(block=", params().block, ")"); }

wire::Format Sign::format() const { return {wire::Codec::kSign, 1, wire::Levels::kUnbiased, params().block}; }

Class Sign::class_of(size_t n, uint32_t) const {
  const size_t block = std::min<size_t>(params().block, std::max<size_t>(n, 1));
  return {.omega = std::nullopt, .alpha = 1.0 / static_cast<double>(block)};
}

CompressorPtr Sign::as_contractive() const { return std::make_shared<Sign>(*this); }

CompressorPtr Sign::as_unbiased() const { return std::make_shared<Sign>(*this); }

}  // namespace tsq
