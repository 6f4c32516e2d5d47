// The exact selection of the `target` largest magnitudes of one vector, in one sweep (a second one if a guess fails).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/parallel.h"
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
  std::vector<S> near;         ///< candidates that a sample does not decide about

  /// Room for so many, none of them there yet.
  void resize(size_t capacity) {
    count = 0;
    index.resize(capacity);
    value.resize(capacity);
  }
  /// The entries of another one.
  void assign(const Selection& other) {
    resize(std::max(index.size(), other.count));
    count = other.count;
    std::copy_n(other.index.begin(), count, index.begin());
    std::copy_n(other.value.begin(), count, value.begin());
  }
  void add(size_t i, S v) {
    index[count] = static_cast<uint32_t>(i);
    value[count++] = v;
  }
};

/// Fills `selection` by fill(first, end, part), which puts entries of the elements [first, end) into `part`: piece by
/// piece on several threads where the user wants them (common/parallel.h), and then the parts one behind the other.
/// False if one of the fills is; the others are made nevertheless.
template <class S, class Fill>
bool select_in_pieces(size_t n, Selection<S>& selection, const Fill& fill) {
  constexpr size_t kPiece = size_t{1} << 16;
  const auto threads = static_cast<size_t>(num_threads());
  const size_t pieces = threads == 1 ? 1 : std::min(n / kPiece, 4 * threads);
  if (pieces < 2) return fill(0, n, selection);
  const size_t length = (n / pieces + kPiece - 1) / kPiece * kPiece;
  thread_local std::vector<Selection<S>> kept;  // reused: as large as the largest section needs
  std::vector<Selection<S>>& parts = kept;
  parts.resize(std::max(parts.size(), pieces));
  std::atomic<bool> done{true};
  parallel_for(0, pieces, 1, [&](size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) {
      parts[i].count = 0;
      if (const size_t first = std::min(n, i * length), end = std::min(n, first + length); first < end)
        if (!fill(first, end, parts[i])) done = false;
    }
  });
  size_t total = 0;
  for (size_t i = 0; i < pieces; ++i) total += parts[i].count;
  selection.count = 0;
  if (selection.index.size() < total) selection.resize(total);
  for (size_t i = 0; i < pieces; ++i) {
    const auto count = static_cast<ptrdiff_t>(parts[i].count), at = static_cast<ptrdiff_t>(selection.count);
    std::copy_n(parts[i].index.begin(), count, selection.index.begin() + at);
    std::copy_n(parts[i].value.begin(), count, selection.value.begin() + at);
    selection.count += parts[i].count;
  }
  return done;
}

/// Fills `kept` with at most `room` entries: fill(first, end, take) calls take(i, value) for those that it keeps of the
/// elements [first, end), in ascending order, piece by piece as above.
template <class S, class Fill>
void select_at_most(size_t room, size_t n, Selection<S>& kept, const Fill& fill) {
  select_in_pieces(n, kept, [&](size_t first, size_t end, Selection<S>& part) {
    const size_t most = std::min(room, end - first);
    part.resize(most);
    fill(first, end, [&](size_t i, S value) {
      if (part.count < most) part.add(i, value);
    });
    return true;
  });
  kept.count = std::min(kept.count, room);
}

/// Fills `selection` with the min(target, non-zeros) largest of what `form` makes of x and state (kernels/topk.h; for
/// kResidual the state becomes e + x); of equal magnitudes those with the lowest indices. False if an element is not
/// finite: then the state is as before (kResidual: to rounding) and the selection is void. S: of
/// state_dtype(x.dtype). O(n).
template <class S>
bool select_largest(kernels::Form form, ConstView x, void* state, size_t target, Selection<S>& selection);

/// select_largest of x - h by a caller that sweeps over x and h for other reasons too, on one thread: it selects from
/// each stretch of elements while they are in the cache. x, h and the selection must outlive this.
template <class S>
class LargestDifferences {
 public:
  /// Looks at a sample.
  LargestDifferences(ConstView x, const View& h, size_t target, Selection<S>& selection);

  /// Takes the elements [begin, end), the ones that follow those before. Of any length; a few thousand are best.
  void sweep(size_t begin, size_t end);

  /// After the last element: what select_largest returns. Sweeps again if the guess from the sample was too high.
  bool finish();

 private:
  ConstView x_;
  View h_;
  size_t target_;
  Selection<S>& selection_;
  KeyOf<S> floor_, bar_;  ///< the guess, and what it has risen to
  bool finite_ = true;
};

/// At least the sum of the squares of the `target` largest entries, and little more; in double, to rounding. O(count),
/// a few times faster than keep_largest.
template <class S>
double largest_energy_bound(const Selection<S>& selection, size_t target);

/// Keeps the `target` largest entries, or all if there are no more; ties as above. O(count).
template <class S>
void keep_largest(Selection<S>& selection, size_t target);

extern template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<float>&);
extern template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<double>&);
extern template class LargestDifferences<float>;
extern template class LargestDifferences<double>;
extern template double largest_energy_bound(const Selection<float>&, size_t);
extern template double largest_energy_bound(const Selection<double>&, size_t);
extern template void keep_largest(Selection<float>&, size_t);
extern template void keep_largest(Selection<double>&, size_t);

}  // namespace tsq
