// SparseSign(ratio= or k=): the signs of the K entries of largest magnitude, and one scale: CAT's "S+Q" (Khirirat,
// Magnusson, Aytekin, Johansson 2021). Format: docs/wire_format.md, codec 8. I: the T = min(K, non-zeros) entries that
// TopK keeps, S the sum of their magnitudes.
//
// The paper's map, |x| sign(x_j) on I, is biased and not contractive: it wants its own step size. As a contractive map
// the scale is the least-squares one, S/T: |x - C(x)|^2 = |x|^2 - S^2/T, B(min(1/K, K/n)): among vectors of equal S the
// norm is largest at m <= T equal entries and zeros (S^2 / (T |x|^2) = m/T) or at n equal entries (T/n).
#pragma once

#include "compressors/entry_count.h"
#include "compressors/fused.h"
#include "compressors/topk_select.h"

namespace tsq {

class SparseSign final : public FusedCompressor {
 public:
  struct Config {
    std::optional<double> ratio;  ///< in (0, 1]
    std::optional<uint64_t> k;    ///< >= 1
    bool fitted = false;          ///< scale S/T; not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless exactly one of ratio and k is given, in its range.
  explicit SparseSign(const Config& config) : config_(config), count_("SparseSign", config.ratio, config.k) {}

  std::string spec() const override { return "SparseSign(" + count_.text() + ")"; }
  wire::Format format() const override { return {.codec = wire::Codec::kSparseSign}; }
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override {
    return std::make_shared<SparseSign>(Config{config_.ratio, config_.k, true});
  }
  CompressorPtr as_unbiased() const override {
    return std::make_shared<SparseSign>(Config{config_.ratio, config_.k, false});
  }
  size_t max_bytes(size_t n, DType dtype) const override;
  size_t zero_bytes(size_t n, DType dtype) const override;
  bool has_fixed_size() const override { return false; }
  double expected_bits(size_t n, DType dtype) const override { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }
  size_t granularity() const override { return 1; }
  bool takes_chooser() const override { return true; }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;

 private:
  /// As TopK's: x.numel < 2^32; not finite: the payload of zeros, the state as it was (kResidual: to rounding).
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  template <class S>
  std::optional<Choice> choose(kernels::Form form, ConstView x, void* state, const EntryChooser& chooser,
                               Selection<S>& kept) const;
  template <class S>
  float scale_of(kernels::Form form, ConstView x, const void* state, const Selection<S>& kept) const;

  Config config_;
  EntryCount count_;
};

}  // namespace tsq
