// The three forms for codecs that see float32 a tile at a time: what is compressed, and how the state changes.
#pragma once

#include "common/dtype.h"
#include "kernels/quantizer.h"
#include "kernels/scalar.h"

namespace tsq {

/// x, e + x or x - h. `state`: x.numel elements of state_dtype(x.dtype), e or h; null for kPlain.
class Quantity {
 public:
  Quantity(kernels::Form form, ConstView x, void* state) : form_(form), x_(x), state_(state) {}

  /// z[i] = element begin + i in float32, i < count: computed in state_dtype, rounded once.
  void load(size_t begin, size_t count, float* z) const {
    kernels::scalar::with_type(x_, [&](const auto* elements) {
      const auto* x = elements + begin;
      using S = decltype(kernels::scalar::widen(*x));
      const S* state = static_cast<const S*>(state_) + (state_ == nullptr ? 0 : begin);
      switch (form_) {
        case kernels::Form::kPlain:
          for (size_t i = 0; i < count; ++i) z[i] = static_cast<float>(kernels::scalar::widen(x[i]));
          break;
        case kernels::Form::kResidual:
          for (size_t i = 0; i < count; ++i) z[i] = static_cast<float>(state[i] + kernels::scalar::widen(x[i]));
          break;
        case kernels::Form::kShifted:
          for (size_t i = 0; i < count; ++i) z[i] = static_cast<float>(kernels::scalar::widen(x[i]) - state[i]);
          break;
      }
    });
  }

  /// m[i] is what was sent of element begin + i: e = (e + x) - m, h = h + m.
  void update(size_t begin, size_t count, const float* m) const {
    if (form_ == kernels::Form::kPlain) return;
    kernels::scalar::with_type(x_, [&](const auto* elements) {
      const auto* x = elements + begin;
      using S = decltype(kernels::scalar::widen(*x));
      S* state = static_cast<S*>(state_) + begin;
      if (form_ == kernels::Form::kResidual)
        for (size_t i = 0; i < count; ++i) state[i] = (state[i] + kernels::scalar::widen(x[i])) - static_cast<S>(m[i]);
      else
        for (size_t i = 0; i < count; ++i) state[i] += static_cast<S>(m[i]);
    });
  }

 private:
  kernels::Form form_;
  ConstView x_;
  void* state_;
};

}  // namespace tsq
