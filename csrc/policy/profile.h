// The energy profile of a vector: how many of its magnitudes there are of each size, with their sums and sums of
// squares, by bins of a sixteenth of an octave. What CAT looks for (policy/selection.h) is found on the bins; elements
// are looked at again only where a bin has to be cut.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tsq {

/// Sums over magnitudes, in double, times Profile::unit().
struct Tally {
  double count = 0, sum = 0, squares = 0;
};

/// One sweep over g for the largest and one for the bins; O(n + kBins). g: finite, fewer than 2^32 elements; it must
/// outlive the profile and not change. All sums in an order that depends on n alone. S: float or double.
template <class S>
class Profile {
 public:
  /// Bins per octave, octaves below the largest magnitude; the last bin has all that is smaller. Zeros are in none.
  static constexpr size_t kPerOctave = 16, kOctaves = 40, kBins = kPerOctave * kOctaves + 1;

  explicit Profile(std::span<const S> g);

  /// A power of two: magnitudes are meant times it below, so that the largest lies in [2, 4) as far as an S goes, and
  /// no square overflows. 1 if all are zero.
  double unit() const { return unit_; }
  uint64_t nonzeros() const { return static_cast<uint64_t>(all().count); }
  const Tally& all() const { return above_[kBins]; }

  /// Of the bins before `bin`, whose magnitudes are larger; bin <= kBins.
  const Tally& above(size_t bin) const { return above_[bin]; }
  /// Magnitudes of a bin are in [lower, upper).
  static double upper(size_t bin) { return std::bit_cast<double>((kTop + 1 - bin) << kShift); }
  static double lower(size_t bin) { return bin + 1 == kBins ? 0.0 : upper(bin + 1); }
  /// The bin of a magnitude; the first one from 4 on.
  static size_t bin_of(double y) {
    const uint64_t down = kTop - std::min(kTop, std::bit_cast<uint64_t>(y) >> kShift);
    return down < kBins - 1 ? static_cast<size_t>(down) : kBins - 1;
  }
  /// The magnitudes of the bins [first, end), in the order of g; or the largest first. A sweep, unless it is what was
  /// asked for last. Valid until the next call.
  std::span<const double> members(size_t first, size_t end);
  std::span<const double> sorted(size_t first, size_t end);

 private:
  static constexpr int kShift = 48;  // what is left of a double's bits: exponent and four bits of the mantissa
  static constexpr uint64_t kTop = (uint64_t{1025} << (52 - kShift)) - 1;  // of the numbers just below 4

  void fill();

  std::span<const S> g_;
  double unit_ = 1;
  std::vector<Tally> above_ = std::vector<Tally>(kBins + 1);
  std::vector<double> members_;
  size_t first_ = 0, end_ = 0;  // of members_
  bool sorted_ = false;
};

extern template class Profile<float>;
extern template class Profile<double>;

}  // namespace tsq
