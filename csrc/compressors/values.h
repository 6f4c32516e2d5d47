// How the kept values of a sparse vector travel (codecs 6 and 7): in the message's dtype, in one of three named types,
// or through a quantizer over the vector of kept values. Format: docs/wire_format.md, "Value coding".
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/convert.h"
#include "compressors/quantizer.h"

namespace tsq {

/// Rounds to E's type, to its largest number instead of Inf; `value` is finite. Doubles become float before anything
/// narrower.
template <class E, class S>
void store_saturated(void* to, size_t i, S value) {
  using Wide = typename E::State;
  constexpr Wide kLargest = std::numeric_limits<Wide>::max();
  const Wide wide = std::clamp(static_cast<Wide>(value), -kLargest, kLargest);
  E::store(to, i, wide);
  if constexpr (!std::is_same_v<E, Element<DType::kFloat32>> && !std::is_same_v<E, Element<DType::kFloat64>>) {
    const bool half = std::is_same_v<E, Element<DType::kFloat16>>;
    if (std::isinf(E::load(to, i))) E::store(to, i, std::copysign(half ? 65504.0f : 0x1.FEp127f, wide));
  }
}

class Values {
 public:
  Values() = default;  ///< the message's dtype
  /// float32, float16 or bfloat16.
  explicit Values(DType dtype) : dtype_(dtype) {}
  explicit Values(std::shared_ptr<const Quantizer> quantizer) : quantizer_(std::move(quantizer)) {}
  /// What a section's format says, which wire::parse has checked.
  static Values of(const wire::Format& format);

  /// Adds its part to a format: the variant's lowest bits, bits, block.
  wire::Format describe(wire::Format format) const;

  /// "" or ", value_dtype='float16'" in the spelling of a spec.
  std::string spec() const;

  /// The quantizer's open choices made; all else stays.
  Values contractive() const;
  Values unbiased() const;

  const Quantizer* quantizer() const { return quantizer_.get(); }

  /// The class of the coding on `count` values; that of a type is the identity's, to its rounding.
  Class class_of(size_t count) const;

  /// Exact length of `count` coded values.
  size_t bytes(size_t count, DType dtype) const;

  /// As Compressor::granularity: the quantizer's dither belongs to the parameter's elements.
  size_t granularity() const { return quantizer_ ? quantizer_->granularity() : 1; }

  /// Writes `count` finite values, and replaces them by what a reader will read. `dtype` is the message's. Values
  /// beyond a type's range become its largest number. S: float or double.
  template <class S>
  void write(S* values, size_t count, const EncodeKey& key, DType dtype, uint8_t* out) const;

  /// Throws WireError unless `in`, which has bytes(count, dtype) bytes, are legal values: finite ones, of legal codes.
  void check(Bytes in, size_t count, DType dtype) const;

  /// Where `count` values can be loaded from, in the type that with_type names; `scratch` must outlive their use.
  const void* read(const uint8_t* in, size_t count, std::vector<float>& scratch) const {
    if (!quantizer_) return in;
    dequantize(in, count, scratch);
    return scratch.data();
  }

  /// Calls f(Element) for the type that read() leaves; `dtype` is the message's.
  template <class F>
  void with_type(DType dtype, F&& f) const {
    with_element(quantizer_ ? DType::kFloat32 : dtype_.value_or(dtype), f);
  }

 private:
  void dequantize(const uint8_t* in, size_t count, std::vector<float>& out) const;

  std::optional<DType> dtype_;
  std::shared_ptr<const Quantizer> quantizer_;
};

extern template void Values::write(float*, size_t, const EncodeKey&, DType, uint8_t*) const;
extern template void Values::write(double*, size_t, const EncodeKey&, DType, uint8_t*) const;

}  // namespace tsq
