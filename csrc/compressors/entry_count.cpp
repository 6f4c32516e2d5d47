#include "compressors/entry_count.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/expression.h"

namespace tsq {

EntryCount::EntryCount(const char* name, std::optional<double> ratio, std::optional<uint64_t> k)
    : ratio_(ratio), k_(k) {
  if (ratio.has_value() == k.has_value())
    throw ArgumentError(concat(name, ": expected one of ratio and k, got ", k ? "both" : "none"));
  if (ratio && !(*ratio > 0 && *ratio <= 1))
    throw ArgumentError(concat(name, ": ratio: expected a number above 0, at most 1, got ", *ratio));
  if (k && *k == 0) throw ArgumentError(concat(name, ": k: expected at least 1, got 0"));
}

uint64_t EntryCount::of(uint64_t n) const {
  if (k_) return std::min(*k_, n);
  const double wanted = std::max(1.0, std::ceil(*ratio_ * static_cast<double>(n)));
  return wanted >= static_cast<double>(n) ? n : static_cast<uint64_t>(wanted);
}

std::string EntryCount::number() const {
  if (k_) return std::to_string(*k_);
  Value value;
  value.kind = Value::Kind::kFloat;
  value.number = *ratio_;
  return to_string(value);
}

std::string EntryCount::text() const { return (k_ ? "k=" : "ratio=") + number(); }

}  // namespace tsq
