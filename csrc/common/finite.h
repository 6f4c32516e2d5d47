// Whether numbers are numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

#include "common/convert.h"

namespace tsq {

/// True if no element is Inf or NaN, in x's own range (the kernels' all_finite is float32's).
inline bool has_finite_values(ConstView x) {
  return with_element(x.dtype, [&](auto element) {
    for (size_t i = 0; i < x.numel; ++i)
      if (!std::isfinite(decltype(element)::load(x.data, i))) return false;
    return true;
  });
}

inline bool has_finite_values(std::span<const double> x) {
  return std::all_of(x.begin(), x.end(), [](double v) { return std::isfinite(v); });
}

}  // namespace tsq
