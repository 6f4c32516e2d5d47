// K: how many entries of n a sparse compressor keeps, as its spec says it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tsq {

class EntryCount {
 public:
  /// Throws ArgumentError, which begins with `name`, unless exactly one is given, in its range: ratio in (0, 1], k
  /// >= 1.
  EntryCount(const char* name, std::optional<double> ratio, std::optional<uint64_t> k);

  /// min(k, n), or min(n, max(1, ceil(ratio n))) with the product rounded once.
  uint64_t of(uint64_t n) const;

  /// "ratio=0.01" or "k=100".
  std::string text() const;
  /// "0.01" or "100".
  std::string number() const;

 private:
  std::optional<double> ratio_;
  std::optional<uint64_t> k_;
};

}  // namespace tsq
