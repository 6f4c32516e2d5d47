// The conditions of Ada3PC: Boolean functions of the gradient x, the previous one y, the estimate h, and of what a
// level made of them. With X = |x - y|^2:
//   Always()       true
//   Near(zeta)     |x - h|^2 <= zeta X         the receiver knows enough: LAG's trigger does not fire
//   Far(zeta)      |x - h|^2 >  zeta X         the opposite
//   Settled(zeta)  X <= zeta |x|^2             the gradient has hardly moved
//   Accurate(zeta) |x - C(x)|^2 <= zeta X      C(x): what the level would make the estimate
// Without a previous gradient (the first step, from zero) Near and Settled are false, Far is true, and Accurate is true
// only of what is exact. docs/algorithms.md.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/dtype.h"
#include "mechanisms/vectors.h"

namespace tsq {

/// What conditions look at; each distance is measured once, when it is asked for. Views of what the caller owns.
class Situation {
 public:
  Situation(ConstView x, ConstView h, ConstView y, bool first) : x_(x), h_(h), y_(y), first_(first) {}

  bool first() const { return first_; }  ///< there is no y
  double to_shift() { return distances().to_shift; }
  double to_previous() { return first_ ? 0.0 : distances().to_previous; }
  double size() {
    if (!size_) size_ = squared_norm(x_);
    return *size_;
  }

 private:
  const Distances& distances() {
    if (!distances_) distances_ = squared_distances(x_, h_, y_);
    return *distances_;
  }

  ConstView x_, h_, y_;
  bool first_;
  std::optional<Distances> distances_;
  std::optional<double> size_;
};

class Condition {
 public:
  enum class Kind : uint8_t { kAlways, kNear, kFar, kSettled, kAccurate };

  /// Throws ArgumentError unless zeta >= 0. kAlways has none.
  explicit Condition(Kind kind, double zeta = 0);

  Kind kind() const { return kind_; }
  double zeta() const { return zeta_; }
  std::string spec() const;

  /// True if it asks what the level would do: then holds() takes the error |x - C(x)|^2.
  bool asks_outcome() const { return kind_ == Kind::kAccurate; }
  bool holds(Situation& now, double error = 0) const;

 private:
  Kind kind_;
  double zeta_;
};

/// "Accurate, Always, ...": for error messages. kind_of: none if there is no such condition.
std::string condition_names();
std::optional<Condition::Kind> condition_kind(std::string_view name);

}  // namespace tsq
