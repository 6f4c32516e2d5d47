// What averaged gradients tell of a network's loss while it trains: for every run of a parameter's elements a mean
// square and a curvature, as exponential averages. Known on every rank alike, because it is made of nothing but what
// every rank gets: the averages that were delivered, and the parameters themselves.
//
// For allocation only: none of these is a majoriser of the Hessian, secants over different minibatches measure their
// noise too, and negative curvature counts by its size (docs/algorithms.md, "Running estimates").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/buffer.h"
#include "common/dtype.h"

namespace tsq {

enum class RunningKind : uint8_t {
  kSecondMoment,  ///< curvature ~ the mean square of the gradient (an empirical Fisher diagonal)
  kSecant,        ///< curvature ~ |<dx, dg>| / |dx|^2 between successive steps; keeps a copy of x and g
  kGiven,         ///< curvature as told by give(), e.g. Hutchinson's z * Hz
};

class RunningSmoothness {
 public:
  struct Of {
    size_t numel = 0;
    DType dtype = DType::kFloat32;
    size_t run = 1024;  ///< elements that share an estimate
  };

  /// decay: of the averages, in [0, 1).
  RunningSmoothness(RunningKind kind, double decay, std::vector<Of> parameters);

  RunningKind kind() const { return kind_; }
  size_t size() const { return parameters_.size(); }
  size_t numel(size_t i) const { return parameters_[i].of.numel; }

  /// One step's delivered gradient of parameter i and where it was taken (looked at by kSecant only; the two may have
  /// no elements for others). Not finite: nothing changes and the result is false. O(numel).
  bool observe(size_t i, ConstView gradient, ConstView position);

  /// kGiven: mean magnitudes of `diagonal` (numel elements, or one for all) become the next term of the average. Throws
  /// ArgumentError for other lengths or kinds, or if it is not finite.
  void give(size_t i, ConstView diagonal);

  /// For a change of loss scale: gradients are `factor` times what they were.
  void scale(double factor);

  /// By run; empty until the first finite observation (or, of curvature, the first that gives one).
  std::span<const double> moment(size_t i) const { return parameters_[i].moment; }
  std::vector<double> curvature(size_t i) const;

  /// All that is remembered of parameter i as one vector of doubles, and back; throws ArgumentError if it does not fit.
  std::vector<double> state(size_t i) const;
  void load(size_t i, std::span<const double> state);

 private:
  struct One {
    Of of;
    std::vector<double> moment, slope, distance, told;  ///< slope, distance: averages of |<dx, dg>| and |dx|^2
    std::vector<double> gradient, position;             ///< the previous ones; kSecant
  };
  void observe_secant(One& p, ConstView gradient, ConstView position);
  void blend(std::vector<double>& average, const std::vector<double>& next) const;

  RunningKind kind_;
  double decay_;
  std::vector<One> parameters_;
};

}  // namespace tsq
