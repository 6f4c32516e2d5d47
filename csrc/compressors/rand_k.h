// RandK(ratio= or k=, shared=False, value_dtype=): K coordinates, a uniform subset drawn from a key that travels
// instead of the indices. Format: docs/wire_format.md, codec 7. Unbiased, values times n/K: U(n/K - 1), equality of the
// variance. As a contractive map unscaled: B(K/n), equality in expectation. shared=False: every rank draws its own, so
// that the errors of n ranks average out (omega / n); shared=True: all draw the same.
#pragma once

#include "compressors/entry_count.h"
#include "compressors/subset.h"

namespace tsq {

class RandK final : public Subset {
 public:
  struct Config {
    std::optional<double> ratio;  ///< in (0, 1]
    std::optional<uint64_t> k;    ///< >= 1
    bool shared = false;
    Values values = {};
    bool scaled = true;  ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless exactly one of ratio and k is given, in its range.
  explicit RandK(const Config& config)
      : Subset(false, config.values), config_(config), count_("RandK", config.ratio, config.k) {}

  std::string spec() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override { return with(values().contractive(), false); }
  CompressorPtr as_unbiased() const override { return with(values().unbiased(), true); }
  size_t max_bytes(size_t n, DType dtype) const override {
    return kSubsetHeadBytes + values().bytes(count_.of(n), dtype);
  }
  double expected_bits(size_t n, DType dtype) const override { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

 private:
  uint64_t max_count(uint64_t n) const override { return count_.of(n); }

  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, the payload is zero and the
  /// state is untouched.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  CompressorPtr with(const Values& values, bool scaled) const {
    return std::make_shared<RandK>(Config{config_.ratio, config_.k, config_.shared, values, scaled});
  }

  Config config_;
  EntryCount count_;
};

}  // namespace tsq
