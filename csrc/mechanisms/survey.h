// What a sender with an estimate learns of its gradient in one sweep over memory: whether all of it can be added to the
// state, how far it is from the estimate and from the gradient before, and (Top-K) where it differs most.
#pragma once

#include <optional>

#include "compressors/topk_select.h"
#include "mechanisms/vectors.h"

namespace tsq {

/// What a sweep will find, roughly, from a sample: for choices that cost time if they are wrong and nothing else.
class Forecast {
 public:
  /// x of at least 512 elements; h and y of state_dtype(x.dtype).
  Forecast(ConstView x, const View& h, const View& y);

  /// About |x - h|^2 and |x - y|^2, in a unit of their own.
  const Distances& distance() const { return distance_; }
  /// About what the largest `share` of the differences x - h leave of |x - h|^2.
  double left(double share) const;

 private:
  struct Bucket {
    uint32_t count = 0;
    double energy = 0;
  };
  std::vector<Bucket> buckets_;  // by magnitude, ascending
  size_t sampled_ = 0;
  Distances distance_{};
};

struct Survey {
  bool ordinary = true;  ///< kernels::all_ordinary(x)
  Distances distance{};
  bool selected = false;  ///< the largest differences are selected; false also where x - h is not finite
};

/// The distances, and the `largest` largest of x - h in *kept (compressors/topk_select.h) if that is not 0. S: of
/// state_dtype(x.dtype). O(n), one sweep but for a guess that fails.
template <class S>
Survey survey(ConstView x, const View& h, const View& y, size_t largest, Selection<S>* kept);

/// The same without distances.
template <class S>
Survey survey(ConstView x, const View& h, size_t largest, Selection<S>* kept);

/// True if a selection is best made in the sweep of a survey: not where a few threads make it faster.
bool selects_in_survey(size_t numel);

extern template Survey survey(ConstView, const View&, const View&, size_t, Selection<float>*);
extern template Survey survey(ConstView, const View&, const View&, size_t, Selection<double>*);
extern template Survey survey(ConstView, const View&, size_t, Selection<float>*);
extern template Survey survey(ConstView, const View&, size_t, Selection<double>*);

}  // namespace tsq
