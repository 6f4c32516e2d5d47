// The entries that a chooser wants of a vector, largest magnitudes first.
#pragma once

#include <span>
#include <vector>

#include "compressors/sums.h"
#include "compressors/topk_select.h"

namespace tsq {

/// Fills `kept` with the choose(candidates) largest of what `form` makes of x and state, as select_largest does; false
/// if an element is not finite. Candidates are the `target` largest, or the vector itself if that is all of it: then
/// only what was chosen is ever collected. S: of state_dtype(x.dtype). O(n) besides `choose`.
template <class S, class Choose>
bool select_chosen(kernels::Form form, ConstView x, void* state, size_t target, Selection<S>& kept, Choose choose) {
  if (target < x.numel) {
    if (!select_largest(form, x, state, target, kept)) return false;
    keep_largest(kept, choose(std::span<const S>(kept.value.data(), kept.count)));
    return true;
  }
  thread_local std::vector<S> buffer;  // reused: as large as the largest section
  const S* const sums = sums_of(form, x, state, buffer);
  kept.count = 0;
  if (!sums) return false;
  if (const uint64_t entries = choose(std::span<const S>(sums, x.numel)))
    select_largest(kernels::Form::kPlain, {sums, state_dtype(x.dtype), x.numel}, nullptr, entries, kept);
  return true;
}

}  // namespace tsq
