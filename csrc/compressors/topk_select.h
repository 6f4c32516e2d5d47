// The exact selection of the `target` largest magnitudes of one vector, in one sweep (a second one if a guess fails).
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/topk.h"

namespace tsq {

/// The bits of a float or double.
template <class S>
using KeyOf = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;

/// What a selection works in and leaves: `count` entries in ascending order of their indices. S: float or double.
template <class S>
struct Selection {
  std::vector<uint32_t> index;
  std::vector<S> value;
  size_t count = 0;
  std::vector<KeyOf<S>> keys;  ///< of a sample

  /// Room for so many, none of them there yet.
  void resize(size_t capacity) {
    count = 0;
    index.resize(capacity);
    value.resize(capacity);
  }
  void add(size_t i, S v) {
    index[count] = static_cast<uint32_t>(i);
    value[count++] = v;
  }
};

/// Fills `selection` with the min(target, non-zeros) largest of what `form` makes of x and state (kernels/topk.h; for
/// kResidual the state becomes e + x); of equal magnitudes those with the lowest indices. False if an element is not
/// finite: then the state is as before (kResidual: to rounding) and the selection is void. S: of
/// state_dtype(x.dtype). O(n).
template <class S>
bool select_largest(kernels::Form form, ConstView x, void* state, size_t target, Selection<S>& selection);

/// Keeps the `target` largest entries, or all if there are no more; ties as above. O(count).
template <class S>
void keep_largest(Selection<S>& selection, size_t target);

extern template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<float>&);
extern template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<double>&);
extern template void keep_largest(Selection<float>&, size_t);
extern template void keep_largest(Selection<double>&, size_t);

}  // namespace tsq
