// Element types of gradients, and typed views of memory that somebody else owns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tsq {

/// Element type of a gradient. The values are those of the wire format's header.
enum class DType : uint8_t { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

constexpr int kDTypeCount = 4;

constexpr size_t size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

/// "float32", "float64", "float16" or "bfloat16".
constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
  }
  return "?";
}

/// State (residuals, shifts) and sums are float32 whatever the gradient's type, float64 for float64.
constexpr DType state_dtype(DType dtype) { return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

/// `numel` elements of type `dtype` at `data`, contiguous, any alignment of the element type; not owned.
struct ConstView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  size_t numel = 0;

  ConstView slice(size_t begin, size_t count) const {
    return {static_cast<const char*>(data) + begin * size_of(dtype), dtype, count};
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

/// As ConstView, writable.
struct View {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  size_t numel = 0;

  View slice(size_t begin, size_t count) const {
    return {static_cast<char*>(data) + begin * size_of(dtype), dtype, count};
  }
  operator ConstView() const { return {data, dtype, numel}; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace tsq
