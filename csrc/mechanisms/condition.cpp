#include "mechanisms/condition.h"

#include "common/error.h"
#include "common/expression.h"

namespace tsq {

namespace {

constexpr const char* kNames[] = {"Always", "Near", "Far", "Settled", "Accurate"};

}  // namespace

Condition::Condition(Kind kind, double zeta) : kind_(kind), zeta_(zeta) {
  if (!(zeta >= 0))
    throw ArgumentError(
        concat(kNames[static_cast<size_t>(kind)], ": zeta: expected a number of at least 0, got ", zeta));
}

std::string Condition::spec() const {
  const std::string name = kNames[static_cast<size_t>(kind_)];
  return kind_ == Kind::kAlways ? name + "()" : name + "(zeta=" + number_text(zeta_) + ")";
}

bool Condition::holds(Situation& now, double error) const {
  switch (kind_) {
    case Kind::kAlways:
      return true;
    case Kind::kNear:
      return !now.first() && now.to_shift() <= zeta_ * now.to_previous();
    case Kind::kFar:
      return now.first() || now.to_shift() > zeta_ * now.to_previous();
    case Kind::kSettled:
      return !now.first() && now.to_previous() <= zeta_ * now.size();
    default:
      return error <= zeta_ * now.to_previous();
  }
}

std::string condition_names() {
  std::string out;
  for (const char* name : kNames) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

std::optional<Condition::Kind> condition_kind(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (name == kNames[i]) return static_cast<Condition::Kind>(i);
  return std::nullopt;
}

}  // namespace tsq
