// Sweeps over vectors that mechanisms are made of, and their scratch memory. State and scratch are of
// state_dtype(gradient's dtype): "S" below; multiply, then add.
#pragma once

#include <functional>
#include <optional>

#include "common/buffer.h"
#include "common/convert.h"

namespace tsq {

/// A vector of S for the time of a scope, from a pool of the calling thread. Not initialised.
class ScratchVector {
 public:
  ScratchVector(size_t numel, DType dtype);
  ~ScratchVector();
  ScratchVector(const ScratchVector&) = delete;
  ScratchVector& operator=(const ScratchVector&) = delete;
  View view() const { return {buffer_.view().data, dtype_, numel_}; }

 private:
  Buffer buffer_;
  DType dtype_;
  size_t numel_;
};

/// to = 0.
void clear(View to);

/// to += x; both of S. add_any: x of any dtype with that S.
void add(View to, ConstView x);
void add_any(View to, ConstView x);

/// to *= factor; to /= divisor.
void scale(View to, double factor);
void divide(View to, double divisor);

/// v = (1 - eta) v + eta x; v of S. eta = 1 gives x itself.
void move_towards(View v, ConstView x, double eta);

/// Sum of (x - h)^2, h of S; and of x^2. In a fixed order, whatever the CPU; no overflow or underflow short of
/// double's.
double squared_distance(ConstView x, ConstView h);
double squared_norm(ConstView x);

/// |x - h|^2 and |x - y|^2, each as squared_distance gives it, in one sweep over memory; h and y of S.
struct Distances {
  double to_shift, to_previous;
};
Distances squared_distances(ConstView x, ConstView h, ConstView y);

/// The same; *ordinary: kernels::all_ordinary(x). Calls visit(begin, end) for stretches of about a thousand elements,
/// in ascending order, while they are in the cache.
Distances squared_distances(ConstView x, ConstView h, ConstView y, bool* ordinary,
                            const std::function<void(size_t, size_t)>& visit);

/// squared_distance of vectors that come in stretches of kStretch elements (the last one may be shorter), in ascending
/// order: h need not be in memory as a whole.
class SquaredDistance {
 public:
  static constexpr size_t kStretch = 4096;

  void add(ConstView x, ConstView h);

  /// True if the distance is more than `bar`, whatever follows; at first false.
  bool surely_above(double bar) const;

  /// The distance; none if it is so small or large that the whole vectors are needed.
  std::optional<double> total() const;

 private:
  double sum_ = 0;
  bool exact_ = false;  // double already
};

}  // namespace tsq
