// How many bits each parameter of a network gets out of a common budget, from what is known of its smoothness. Pure
// functions of numbers that every rank has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compressors/widths.h"

namespace tsq {

/// What an error in the averaged gradient costs, by the optimizer that will use it.
enum class Metric : uint8_t {
  kSgd,   ///< x -= gamma g: curvature
  kAdam,  ///< x -= gamma g / sqrt(v): 1 / sqrt(v), v the mean square of the gradient
};

/// Costs by run, from the mean squares and curvatures of a parameter's runs (RunningSmoothness). `least`: below it, as
/// mean squares and curvatures go (a share of the mean over all parameters), nothing counts as flatter. A cost is only
/// ever compared with another one. No curvatures: those that are missing count as 1.
std::vector<double> error_costs(Metric metric, std::span<const double> moments, std::span<const double> curvatures,
                                double least_moment, double least_curvature);

/// What a budget is shared by: the runs of one parameter, all whole ones.
struct WidthShare {
  std::span<const double> costs;    ///< by run, error_costs
  std::span<const double> moments;  ///< by run, the mean square of what is sent
};

/// Average widths by parameter, each in [least, 8]: `average` over all runs of all of them, spent where
/// cost * mean square * noise falls most. Runs are of one length. A parameter without runs gets `average`. The sum over
/// parameters of floor(bits * runs) is floor(average * all runs).
std::vector<double> share_bits(std::span<const WidthShare> parameters, double average, const WidthLimits& limits);

}  // namespace tsq
