// Step sizes that theory allows, from the constants of mechanisms: docs/algorithms.md, "Step sizes".
#pragma once

#include "mechanisms/mechanism.h"

namespace tsq {

/// The largest step size with descent guaranteed for nonconvex f of smoothness l_minus, mean |grad f_i(x) -
/// grad f_i(y)|^2 <= l_plus^2 |x - y|^2, on n elements and world_size ranks:
///   three point compressors  1 / (L- + L+ sqrt(B / A))
///   Bidirectional            1 / (L- + L+ sqrt(2 K)), K = (Bw/Aw)(1 + 3 Bm (2 - Aw) / Am) + 3 Bm (1 + Bw) / Am
///   ErrorFeedback            alpha / (4 L-)
/// Throws ArgumentError if the constants are unknown or an argument is not positive.
double safe_step(const Mechanism& mechanism, double l_minus, double l_plus, size_t n, uint32_t world_size);

}  // namespace tsq
