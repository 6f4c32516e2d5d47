// Cast(dtype): the nearest number of a shorter format. Format: docs/wire_format.md, codec 11; derivations:
// docs/algorithms.md. Deterministic, biased, contractive:
//
//   'fp16'     |C(x) - x| <= 2^-11 |x| for elements from 2^-14 to 65504, B(1 - 2^-22) there; below, up to 2^-25 is
//              lost of an element, above it becomes +-65504: outside of its range it has no constant
//   'bf16'     2^-8 |x| from 2^-126 on, B(1 - 2^-16)
//   'fp8'      e4m3 with a scale per block of 256 elements: 2^-4 |x|, or 2^-10 / 448 of the block's largest element:
//              B(1 - 2^-8 (1 + 2^-10))
//   'fp8_e5m2' e5m2 likewise: B(1 - 2^-6 (1 + 2^-10))
#pragma once

#include "compressors/fused.h"

namespace tsq {

enum class CastTo : uint8_t { kHalf = 0, kBFloat16 = 1, kE4M3 = 2, kE5M2 = 3 };  // Format::variant

/// The names in specs, by number.
inline constexpr const char* kCastNames[] = {"fp16", "bf16", "fp8", "fp8_e5m2"};

class Cast final : public FusedCompressor {
 public:
  static constexpr size_t kBlock = 256;  ///< elements that share a scale, for the 8-bit formats

  explicit Cast(CastTo to) : to_(to) {}

  std::string spec() const override;
  wire::Format format() const override { return {.codec = wire::Codec::kCast, .variant = static_cast<uint8_t>(to_)}; }
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  CompressorPtr as_contractive() const override { return std::make_shared<Cast>(to_); }
  CompressorPtr as_unbiased() const override { return std::make_shared<Cast>(to_); }
  size_t max_bytes(size_t n, DType dtype) const override;
  double expected_bits(size_t n, DType dtype) const override;
  size_t granularity() const override { return kBlock; }
  bool divisible() const override { return true; }

  void validate(Bytes in, uint64_t n, DType dtype) const override;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const override;
  void decode_mean(std::span<const Bytes> in, View out) const override;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const override;

 private:
  /// Non-finite (e + x or x - h in float32 included): the payload is that of zeros, no state has changed.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  template <class F>
  void visit(std::span<const Bytes> in, size_t n, double scale, const F& f) const;

  CastTo to_;
};

}  // namespace tsq
