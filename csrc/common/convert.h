// Element access by dtype: one place where a run-time dtype becomes a type.
#pragma once

#include <cmath>
#include <cstring>

#include "common/dtype.h"
#include "common/half.h"

namespace tsq {

/// Loads and stores one element as `State` (float or double), at any alignment.
template <DType kDType>
struct Element;

template <>
struct Element<DType::kFloat32> {
  using State = float;
  static float load(const void* p, size_t i) {
    float v;
    std::memcpy(&v, static_cast<const char*>(p) + 4 * i, 4);
    return v;
  }
  static void store(void* p, size_t i, float v) { std::memcpy(static_cast<char*>(p) + 4 * i, &v, 4); }
};

template <>
struct Element<DType::kFloat64> {
  using State = double;
  static double load(const void* p, size_t i) {
    double v;
    std::memcpy(&v, static_cast<const char*>(p) + 8 * i, 8);
    return v;
  }
  static void store(void* p, size_t i, double v) { std::memcpy(static_cast<char*>(p) + 8 * i, &v, 8); }
};

template <>
struct Element<DType::kFloat16> {
  using State = float;
  static float load(const void* p, size_t i) {
    uint16_t v;
    std::memcpy(&v, static_cast<const char*>(p) + 2 * i, 2);
    return to_float(Half{v});
  }
  static void store(void* p, size_t i, float v) {
    const uint16_t bits = to_half(v).bits;
    std::memcpy(static_cast<char*>(p) + 2 * i, &bits, 2);
  }
};

template <>
struct Element<DType::kBFloat16> {
  using State = float;
  static float load(const void* p, size_t i) {
    uint16_t v;
    std::memcpy(&v, static_cast<const char*>(p) + 2 * i, 2);
    return to_float(BFloat16{v});
  }
  static void store(void* p, size_t i, float v) {
    const uint16_t bits = to_bfloat16(v).bits;
    std::memcpy(static_cast<char*>(p) + 2 * i, &bits, 2);
  }
};

/// Calls f(Element<dtype>{}).
template <class F>
decltype(auto) with_element(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat64:
      return f(Element<DType::kFloat64>{});
    case DType::kFloat16:
      return f(Element<DType::kFloat16>{});
    case DType::kBFloat16:
      return f(Element<DType::kBFloat16>{});
    case DType::kFloat32:
      break;
  }
  return f(Element<DType::kFloat32>{});
}

/// to = x, converted to `to`'s dtype (rounded to nearest even where that is narrower); as many elements.
inline void assign(View to, ConstView x) {
  if (to.dtype == x.dtype) {
    if (x.numel) std::memcpy(to.data, x.data, x.numel * size_of(x.dtype));
    return;
  }
  with_element(to.dtype, [&](auto to_element) {
    using T = decltype(to_element);
    with_element(x.dtype, [&](auto element) {
      for (size_t i = 0; i < x.numel; ++i)
        T::store(to.data, i, static_cast<typename T::State>(decltype(element)::load(x.data, i)));
    });
  });
}

}  // namespace tsq
