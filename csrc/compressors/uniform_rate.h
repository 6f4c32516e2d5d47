// The step at which a vector takes a wanted number of bits (docs/wire_format.md, "How uniform steps encode").
#pragma once

#include <optional>

#include "kernels/uniform_step.h"

namespace tsq {

constexpr float kMinUniformStep = 0x1p-126f, kMaxUniformStep = 0x1p112f;

/// The step for `bits` bits per element of what `form` makes of x and state, found by trial on a sample. With M the
/// largest magnitude in the sample (`grid.stochastic`: of all elements) it is between 2^-14 M and 7/4 M (stochastic: 16
/// M). 0 if all elements are below 2^-126; none if one that was looked at is not finite. Integers decide, so the result
/// is the same on every machine. Of `grid`, stochastic and key are used.
std::optional<float> choose_uniform_step(kernels::UniformGrid grid, kernels::Form form, ConstView x, const void* state,
                                         double bits);

}  // namespace tsq
