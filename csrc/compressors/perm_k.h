// PermK(value_dtype=): of each group of W neighbours (W ranks) every rank sends one coordinate, another one each, dealt
// anew by a shared key (Szlendak, Tyurin, Richtarik 2021). Format: docs/wire_format.md, codec 7, permuted. Unbiased,
// values times W: U(W - 1) each, and jointly E|mean C_i(a_i) - mean a_i|^2 = mean|a_i|^2 - |mean a_i|^2: exact if all
// a_i are equal. As a contractive map unscaled: B(1/W), equality in expectation.
#pragma once

#include "compressors/subset.h"

namespace tsq {

class PermK final : public Subset {
 public:
  struct Config {
    Values values = {};
    bool scaled = true;  ///< not part of the spec: set by a mechanism
  };

  explicit PermK(const Config& config) : Subset(true, config.values), config_(config) {}

  std::string spec() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override {
    return std::make_shared<PermK>(Config{values().contractive(), false});
  }
  CompressorPtr as_unbiased() const override { return std::make_shared<PermK>(Config{values().unbiased(), true}); }
  size_t max_bytes(size_t n, DType dtype) const override {  // that of a world of one
    return kSubsetHeadBytes + values().bytes(n, dtype);
  }
  size_t zero_bytes(size_t, DType) const override { return kSubsetHeadBytes; }
  bool has_fixed_size() const override { return false; }  // depends on the world, and by one on the last group
  double expected_bits(size_t n, DType dtype) const override { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

 private:
  uint64_t max_count(uint64_t n) const override { return n; }

  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, the payload is the one of
  /// zeros and the state is untouched.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  Config config_;
};

}  // namespace tsq
