// TopK(ratio= or k=, value_dtype=): the entries of largest magnitude, exactly. Format: docs/wire_format.md, codec 6.
//
// Sends min(K, non-zeros) entries, K = min(k, n) or min(n, max(1, ceil(ratio n))); of equal magnitudes the one with the
// lower index. Contractive, B(K/n): |x - C(x)|^2 is the sum of the n - K smallest squares; with values through a
// quantizer of B(a), B(a K/n). What rounding (or saturation) of the values keeps back, error feedback keeps.
#pragma once

#include "compressors/entry_count.h"
#include "compressors/sparse_vector.h"

namespace tsq {

class TopK final : public SparseVector {
 public:
  struct Config {
    std::optional<double> ratio;  ///< in (0, 1]
    std::optional<uint64_t> k;    ///< >= 1
    Values values = {};
  };

  /// Throws ArgumentError unless exactly one of ratio and k is given, in its range.
  explicit TopK(const Config& config)
      : SparseVector(config.values), config_(config), count_("TopK", config.ratio, config.k) {}

  /// K for n elements.
  size_t target(uint64_t n) const { return count_.of(n); }
  uint64_t max_entries(uint64_t n) const override { return count_.of(n); }

  std::string spec() const override { return "TopK(" + count_.text() + values().spec() + ")"; }
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  bool takes_chooser() const override { return true; }
  CompressorPtr as_contractive() const override { return with(values().contractive()); }
  CompressorPtr as_unbiased() const override { return with(values().unbiased()); }

  /// For a mechanism that has selected (AdaCGD): at most target(x.numel) entries of `kept`, a selection from what
  /// `form` makes of x and state (compressors/topk_select.h).
  using SparseVector::send;

 private:
  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, the payload is the one of
  /// zeros and the state is as it was (kResidual: to rounding; callers with state look at x first).
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  template <class S>
  std::optional<Choice> choose(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                               Selection<S>& kept) const;

  CompressorPtr with(const Values& values) const {
    return std::make_shared<TopK>(Config{config_.ratio, config_.k, values});
  }

  Config config_;
  EntryCount count_;
};

}  // namespace tsq
