#include "compressors/script.h"

namespace tsq {

std::optional<double> Compressor::script_L(const Smoothness& L, size_t n, uint32_t world_size) const {
  const std::optional<double> omega = class_of(n, world_size).omega;
  L.check_numel(n);
  if (!omega) return std::nullopt;
  return *omega == 0 ? 0.0 : *omega * L.lambda_max();
}

}  // namespace tsq
