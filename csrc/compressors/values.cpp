#include "compressors/values.h"

#include <cstring>
#include <type_traits>

#include "common/error.h"

namespace tsq {

namespace {

const char* spelling(DType dtype) {
  return dtype == DType::kFloat32 ? "fp32" : dtype == DType::kFloat16 ? "fp16" : "bf16";
}

std::shared_ptr<const Quantizer> as_quantizer(const CompressorPtr& c) {
  return std::dynamic_pointer_cast<const Quantizer>(c);
}

}  // namespace

Values Values::of(const wire::Format& format) {
  switch (format.variant & wire::kValueCodingMask) {
    case wire::kFloat32Values:
      return Values(DType::kFloat32);
    case wire::kFloat16Values:
      return Values(DType::kFloat16);
    case wire::kBFloat16Values:
      return Values(DType::kBFloat16);
    case wire::kNativeValues:
      return Values();
  }
  wire::Format inner = format;
  inner.variant = static_cast<uint8_t>((format.variant & wire::kValueCodingMask) - wire::kQuantizedValues);
  return Values(Quantizer::reader_of(inner));
}

wire::Format Values::describe(wire::Format format) const {
  uint8_t coding = wire::kNativeValues;
  if (dtype_)
    coding = *dtype_ == DType::kFloat32   ? wire::kFloat32Values
             : *dtype_ == DType::kFloat16 ? wire::kFloat16Values
                                          : wire::kBFloat16Values;
  if (quantizer_) {
    const wire::Format inner = quantizer_->format();
    coding = static_cast<uint8_t>(wire::kQuantizedValues + inner.variant);
    format.bits = inner.bits;
    format.block = inner.block;
  }
  format.variant = static_cast<uint8_t>(format.variant | coding);
  return format;
}

std::string Values::spec() const {
  if (quantizer_) return ", value_dtype=" + quantizer_->spec();
  return dtype_ ? concat(", value_dtype='", spelling(*dtype_), "'") : "";
}

Values Values::contractive() const { return quantizer_ ? Values(as_quantizer(quantizer_->as_contractive())) : *this; }

Values Values::unbiased() const { return quantizer_ ? Values(as_quantizer(quantizer_->as_unbiased())) : *this; }

Class Values::class_of(size_t count) const {
  return quantizer_ ? quantizer_->class_of(count) : Class{.omega = 0.0, .alpha = 1.0};
}

size_t Values::bytes(size_t count, DType dtype) const {
  return quantizer_ ? quantizer_->max_bytes(count, dtype) : count * size_of(dtype_.value_or(dtype));
}

template <class S>
void Values::write(S* values, size_t count, const EncodeKey& key, DType dtype, uint8_t* out) const {
  if (!quantizer_)
    return with_element(dtype_.value_or(dtype), [&](auto element) {
      using E = decltype(element);
      if constexpr (std::is_same_v<E, Element<std::is_same_v<S, float> ? DType::kFloat32 : DType::kFloat64>>) {
        if (count != 0) std::memcpy(out, values, count * sizeof(S));  // finite ones are what they are
      } else {
        for (size_t j = 0; j < count; ++j) {
          store_saturated<E>(out, j, values[j]);
          values[j] = static_cast<S>(E::load(out, j));
        }
      }
    });
  thread_local std::vector<float> narrow;  // reused: as large as the largest section's
  narrow.resize(count);
  for (size_t j = 0; j < count; ++j) store_saturated<Element<DType::kFloat32>>(narrow.data(), j, values[j]);
  quantizer_->encode({narrow.data(), DType::kFloat32, count}, key, {out, bytes(count, dtype)});
  dequantize(out, count, narrow);
  for (size_t j = 0; j < count; ++j) values[j] = static_cast<S>(narrow[j]);
}

template void Values::write(float*, size_t, const EncodeKey&, DType, uint8_t*) const;
template void Values::write(double*, size_t, const EncodeKey&, DType, uint8_t*) const;

void Values::check(Bytes in, size_t count, DType dtype) const {
  if (quantizer_) quantizer_->validate(in, count, DType::kFloat32);
  thread_local std::vector<float> scratch;
  const void* const values = read(in.data(), count, scratch);  // a level times a large legal scale may overflow
  with_type(dtype, [&](auto element) {
    for (size_t j = 0; j < count; ++j)
      if (!std::isfinite(decltype(element)::load(values, j))) throw_wire("payload", "finite values", "others");
  });
}

void Values::dequantize(const uint8_t* in, size_t count, std::vector<float>& out) const {
  out.resize(count);
  const Bytes payload(in, quantizer_->max_bytes(count, DType::kFloat32));
  quantizer_->decode_mean({&payload, 1}, {out.data(), DType::kFloat32, count});
}

}  // namespace tsq
