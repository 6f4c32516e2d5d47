// The last write of a sweep.
#pragma once

#include "common/convert.h"
#include "kernels/copy.h"

namespace tsq {

/// assign() of a vector, or of a part of one of `whole` elements, that is not read again soon: past the cache if it
/// would not stay there.
inline void deliver(View to, ConstView x, size_t whole) {
  const size_t bytes = size_of(to.dtype);
  if (to.dtype == x.dtype && whole * bytes >= kernels::kBeyondCache)
    kernels::copy_past_cache(to.data, x.data, x.numel * bytes);
  else
    assign(to, x);
}
inline void deliver(View to, ConstView x) { deliver(to, x, to.numel); }

}  // namespace tsq
