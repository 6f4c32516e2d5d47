// Step sizes that theory allows, from the constants of mechanisms: docs/algorithms.md, "Step sizes".
#pragma once

#include "mechanisms/mechanism.h"

namespace tsq {

/// The largest step size with descent guaranteed for nonconvex f of smoothness l_minus, mean |grad f_i(x) -
/// grad f_i(y)|^2 <= l_plus^2 |x - y|^2, on n elements and world_size ranks:
///   three point compressors  1 / (L- + L+ sqrt(B / A));  if mu > 0, for f with |grad f|^2 >= 2 mu (f - inf f):
///                            min{1 / (L- + L+ sqrt(2 B / A)), A / (2 mu)}
///   EF21 with momentum eta   1 / (L- + sqrt(2 (4 (B / A) L+^2 + L-^2 / eta^2))), A, B without momentum
///   Bidirectional            1 / (L- + L+ sqrt(2 K)), K = (Bw/Aw)(1 + 3 Bm (2 - Aw) / Am) + 3 Bm (1 + Bw) / Am
///   ErrorFeedback            alpha / (4 L-)
///   ErrorFeedback both ways  min{1 / (4 L-), 1 / (L- sqrt(8 K))}, K = 4 (1 - a)/a^2 (1 + 24 (1 - m)/m^2) +
///                            12 (1 - m)(2 - a) / (m^2 a), a and m the alphas of up and down
/// Throws ArgumentError if the constants are unknown, L is not positive, mu is negative, or mu > 0 where no step is
/// known for it.
double safe_step(const Mechanism& mechanism, double l_minus, double l_plus, size_t n, uint32_t world_size,
                 double mu = 0);

/// True if error feedback and the EF21 family multiply what this compressor sends by 1 / (1 + omega), since it is
/// unbiased and not contractive as it is.
bool scaled_to_contract(const Compressor& compressor, size_t n, uint32_t world_size);

/// What theory knows of one rank's noise under Direct or DIANA: omega of the compressor, and script-L in the metric of
/// its smoothness; both fitted to it with `plus` (DCGD+, DIANA+), else of the compressor as it is, script-L = omega
/// lambda_max.
struct Noise {
  double omega = 0, script_L = 0;
};
/// One per smoothness. Throws ArgumentError unless the mechanism is Direct or DIANA around an unbiased compressor with
/// known constants.
std::vector<Noise> noise_of(const Mechanism& mechanism, const SmoothnessSet& given, bool plus);

/// The step size up to which convex theory holds (docs/smoothness.md), L = lambda_max of the mean smoothness, n ranks:
///   Direct  1 / (L + 2 max script-L / n)         DIANA  1 / (L + 6 max script-L / n)
/// and half of it where a smoothness states no strong convexity. Throws as noise_of.
double convex_step(const Mechanism& mechanism, const SmoothnessSet& given, bool plus);

}  // namespace tsq
