// How a policy enters a sparse compressor: it sees the vector that is compressed (x, e + x or x - h) and chooses how
// much of it is sent, from nothing up to what the spec allows. Implemented by policy/cat.h; handed in by EncodeKey.
#pragma once

#include <cstdint>
#include <span>

namespace tsq {

/// The code of one vector's entries.
struct EntryCode {
  uint64_t n = 0;         ///< length of the vector
  double value_bits = 0;  ///< of one entry, its index aside
  double scale_bits = 0;  ///< once beside the entries
};

/// Pure functions: the same choice for the same input, on every machine.
class EntryChooser {
 public:
  virtual ~EntryChooser() = default;

  /// How many of the entries, largest magnitudes first, are sent with their values. The candidates come in any order.
  virtual uint64_t largest(std::span<const float> candidates, const EntryCode& code) const = 0;
  virtual uint64_t largest(std::span<const double> candidates, const EntryCode& code) const = 0;

  /// The same where only signs are sent, with one scale.
  virtual uint64_t signs(std::span<const float> candidates, const EntryCode& code) const = 0;
  virtual uint64_t signs(std::span<const double> candidates, const EntryCode& code) const = 0;

  /// tau, if element j of the whole vector is sent with probability min(1, |x_j| / tau); 0: all of them.
  virtual double threshold(std::span<const float> vector, const EntryCode& code) const = 0;
  virtual double threshold(std::span<const double> vector, const EntryCode& code) const = 0;

  /// What decides between finished messages (the levels of a ladder), the larger the better: `gain` is the squared norm
  /// that a message of so many entries and bits takes off the error.
  virtual double utility(double gain, uint64_t entries, double payload_bits) const = 0;

  /// Weights w_j in (0, 1] of the elements from `offset` on: entries are ranked and chosen by |w_j x_j|. Empty: all
  /// alike. Not for signs: their receiver would need the weights too.
  virtual std::span<const double> weights(uint64_t offset, uint64_t n) const = 0;
};

}  // namespace tsq
