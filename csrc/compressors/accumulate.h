// decode_add and decode_mean of codecs that decode to float32, a chunk of elements at a time.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/convert.h"

namespace tsq {

/// acc[i] += scale * values[i], in acc's type.
inline void add_values(const float* values, double scale, View acc) {
  const auto add = [&](auto* sums) {
    using S = std::remove_pointer_t<decltype(sums)>;
    const S factor = static_cast<S>(scale);
    for (size_t i = 0; i < acc.numel; ++i) sums[i] += factor * static_cast<S>(values[i]);
  };
  acc.dtype == DType::kFloat64 ? add(acc.as<double>()) : add(acc.as<float>());
}

/// out = the mean of `count` messages, as Compressor::decode_mean says. decode(message, begin, length, values) is
/// called for chunk after chunk of all messages, so that the sums stay in the cache.
template <class Decode>
void mean_of_chunks(size_t count, size_t chunk, View out, Decode decode) {
  const DType sum_type = state_dtype(out.dtype);
  const bool in_place = sum_type == out.dtype;
  std::vector<float> values(std::min(chunk, out.numel)), narrow(in_place ? 0 : values.size());
  for (size_t begin = 0; begin < out.numel; begin += chunk) {
    const View to = out.slice(begin, std::min(chunk, out.numel - begin));
    const View sums = in_place ? to : View{narrow.data(), sum_type, to.numel};
    std::memset(sums.data, 0, sums.numel * size_of(sum_type));
    for (size_t m = 0; m < count; ++m) {
      decode(m, begin, to.numel, values.data());
      add_values(values.data(), 1.0, sums);
    }
    with_element(out.dtype, [&](auto element) {
      using E = decltype(element);
      auto* const sum = sums.as<typename E::State>();
      if (count > 1)
        for (size_t i = 0; i < sums.numel; ++i) sum[i] /= static_cast<typename E::State>(count);
      if (!in_place)
        for (size_t i = 0; i < sums.numel; ++i) E::store(to.data, i, sum[i]);
    });
  }
}

}  // namespace tsq
