// TopK(ratio= or k=): the entries of largest magnitude, exactly. Format: docs/wire_format.md, codec 6.
//
// Sends min(K, non-zeros) entries, K = min(k, n) or min(n, max(1, ceil(ratio n))); of equal magnitudes the one with the
// lower index. Contractive, B(K/n): |x - C(x)|^2 is the sum of the n - K smallest squares. In 16-bit messages the
// values are rounded to the message's type, and saturate at its largest number; error feedback keeps the difference.
#pragma once

#include "compressors/fused.h"
#include "compressors/topk_select.h"
#include "kernels/quantizer.h"

namespace tsq {

class TopK final : public FusedCompressor {
 public:
  struct Config {
    std::optional<double> ratio;  ///< in (0, 1]
    std::optional<uint64_t> k;    ///< >= 1
  };

  /// Throws ArgumentError unless exactly one is given, in its range.
  explicit TopK(const Config& config);

  /// K for n elements.
  size_t target(uint64_t n) const;

  std::string spec() const override;
  wire::Format format() const override { return {.codec = wire::Codec::kTopK}; }
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override { return std::make_shared<TopK>(config_); }
  CompressorPtr as_unbiased() const override { return std::make_shared<TopK>(config_); }
  size_t max_bytes(size_t n, DType dtype) const override;
  size_t zero_bytes(size_t n, DType dtype) const override;
  bool has_fixed_size() const override { return false; }
  double expected_bits(size_t n, DType dtype) const override;
  size_t granularity() const override { return 1; }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;

  /// Writes the entries of `kept`, a selection from what `form` makes of x and state (compressors/topk_select.h), at
  /// most target(x.numel) of them; their values become what a reader will read. Updates the state as encode_* does. S:
  /// of state_dtype(x.dtype).
  template <class S>
  Encoded send(kernels::Form form, ConstView x, void* state, const EncodeKey& key, Selection<S>& kept,
               MutableBytes out) const;

 private:
  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, the payload is the one of
  /// zeros and the state is as it was (kResidual: to rounding; callers with state look at x first).
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  Config config_;
};

}  // namespace tsq
