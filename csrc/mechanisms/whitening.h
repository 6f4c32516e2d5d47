// "Whiten, compress, un-whiten": workers send C(L^(+1/2) v), and L^(1/2) of what arrives is the estimate of v. Loses
// nothing by itself, since gradients are in the range of L. What DCGD+ and DIANA+ share (mechanisms/whitened.h).
#pragma once

#include <optional>
#include <string>

#include "mechanisms/mechanism.h"

namespace tsq {

/// "" or ", smoothness='matrix'".
std::string smoothness_text(const std::string& kind);

/// A smoothness and the compressor that is fitted to it, of each rank or common to all.
class Whitening {
 public:
  struct Side {
    SmoothnessPtr smoothness;
    CompressorPtr compressor;
  };

  /// `kind`: what each smoothness must be; empty: anything. `shifts`: DIANA+'s tuning, where a shift's noise counts
  /// too. Throws ArgumentError unless everything fits.
  Whitening(const CompressorPtr& compressor, const SmoothnessSet& given, const std::string& kind, bool shifts);

  size_t numel() const { return numel_; }
  bool common() const { return sides_.size() == 1; }
  const Side& of(uint32_t rank) const { return sides_[common() ? 0 : rank]; }
  const std::vector<Side>& sides() const { return sides_; }

  /// y = L^(+1/2) v, both of S (state_dtype); false if an element is not finite. Throws ArgumentError unless v has
  /// numel() elements. O(d), for a matrix O(d^2).
  bool whiten(const Side& side, ConstView v, View y) const;

  /// v = L^(1/2) y, of S; may be the same memory.
  void unwhiten(const Side& side, ConstView y, View v) const;

  /// sum += L^(1/2) of what arrived from this side's rank.
  void add_arrived(const Side& side, const Arrived& from, DType dtype, View sum) const;

 private:
  size_t numel_;
  std::vector<Side> sides_;
};

}  // namespace tsq
