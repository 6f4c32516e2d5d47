// Vectors of a run-time element type, random gradients and texts of errors: what every test needs.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "common/buffer.h"
#include "common/convert.h"
#include "common/error.h"

namespace tsq::test {

inline constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16};

inline double get(ConstView x, size_t i) {
  return with_element(x.dtype, [&](auto e) { return static_cast<double>(decltype(e)::load(x.data, i)); });
}

inline void set(View x, size_t i, double value) {
  with_element(x.dtype, [&](auto e) {
    using E = decltype(e);
    E::store(x.data, i, static_cast<typename E::State>(value));
  });
}

/// Owns n elements of `dtype`; zero at first; copyable.
class Vector {
 public:
  Vector() = default;
  Vector(DType dtype, size_t n) : buffer_(n, dtype) {}
  explicit Vector(ConstView from) : buffer_(from.numel, from.dtype) {
    if (from.numel) std::memcpy(view().data, from.data, buffer_.bytes());
  }
  Vector(const Vector& other) : Vector(ConstView(other.view())) {}
  Vector(Vector&&) = default;
  Vector& operator=(Vector other) {
    buffer_ = std::move(other.buffer_);
    return *this;
  }

  View view() const { return buffer_.view(); }
  size_t size() const { return view().numel; }
  double operator[](size_t i) const { return get(view(), i); }
  void set(size_t i, double value) { test::set(view(), i, value); }
  Bytes bytes() const { return {view().as<uint8_t>(), buffer_.bytes()}; }

  /// Bit by bit.
  bool operator==(const Vector& other) const {
    return view().dtype == other.view().dtype && std::ranges::equal(bytes(), other.bytes());
  }

 private:
  tsq::Buffer buffer_;
};

/// Gaussian, with a scale of its own (2^-10 to 2^2) for every 32 elements, and some zeros.
inline Vector random_vector(DType dtype, size_t n, uint64_t seed) {
  std::mt19937_64 random(seed * 0x9E3779B97F4A7C15u + 12345);
  std::normal_distribution<double> normal;
  Vector x(dtype, n);
  double scale = 1;
  for (size_t i = 0; i < n; ++i) {
    if (i % 32 == 0) scale = std::ldexp(1.0, static_cast<int>(random() % 13) - 10);
    x.set(i, random() % 16 == 0 ? 0.0 : scale * normal(random));
  }
  return x;
}

inline double max_abs(ConstView x) {
  double out = 0;
  for (size_t i = 0; i < x.numel; ++i) out = std::max(out, std::abs(get(x, i)));
  return out;
}

/// The largest |a_i - b_i|; NaN if there is one.
inline double max_difference(ConstView a, ConstView b) {
  double out = a.numel == b.numel ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.numel, b.numel); ++i) {
    const double d = std::abs(get(a, i) - get(b, i));
    if (!(d <= out)) out = d;
  }
  return out;
}

inline bool all_nan(ConstView x) {
  for (size_t i = 0; i < x.numel; ++i)
    if (!std::isnan(get(x, i))) return false;
  return true;
}

/// Relative rounding error of one operation in `dtype`.
inline double epsilon(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 0x1p-53;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
    case DType::kFloat32:
      break;
  }
  return 0x1p-24;
}

/// The text of the E that f throws; "" if it throws nothing. Another type goes through.
template <std::derived_from<std::exception> E, class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "";
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace tsq::test
