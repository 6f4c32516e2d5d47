// Reading sparse vectors: what codecs 6 and 8, which differ in their values, share.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "compressors/values.h"
#include "wire/indices.h"

namespace tsq {

/// acc[i] += scale * value(j) for the j-th entry, at i; multiplied and added in acc's type.
template <class Value>
void add_entries(wire::IndexReader& reader, double scale, View acc, Value value) {
  const auto add = [&](auto* sums, auto factor) {
    uint16_t positions[wire::kSegment];
    size_t j = 0;
    for (size_t begin = 0; begin < acc.numel; begin += wire::kSegment) {
      const size_t count = reader.next(positions);
      for (size_t i = 0; i < count; ++i)
        sums[begin + positions[i]] += factor * static_cast<decltype(factor)>(value(j++));
    }
  };
  acc.dtype == DType::kFloat64 ? add(acc.as<double>(), scale) : add(acc.as<float>(), static_cast<float>(scale));
}

/// What is left to read of one message; `values` is what its values are read from.
template <class V>
struct SparseCursor {
  wire::IndexReader indices;
  V values;
  size_t at = 0;
};

/// decode_mean of messages whose j-th value is value(values, j). All messages' entries of one segment, then the next
/// segment: the sums stay in the cache.
template <class V, class Value>
void mean_entries(std::span<SparseCursor<V>> messages, View out, Value value) {
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    uint16_t positions[wire::kSegment];
    constexpr bool kExact = std::is_same_v<E, Element<DType::kFloat32>> || std::is_same_v<E, Element<DType::kFloat64>>;
    std::vector<S> sums(kExact ? 0 : std::min(out.numel, wire::kSegment));  // of one segment; else in `out` itself
    const S count = static_cast<S>(messages.size());
    for (size_t begin = 0; begin < out.numel; begin += wire::kSegment) {
      const size_t length = std::min(wire::kSegment, out.numel - begin);
      S* const sum = kExact ? out.as<S>() + begin : sums.data();
      std::fill_n(sum, length, S{0});
      for (SparseCursor<V>& m : messages) {
        const size_t entries = m.indices.next(positions);
        for (size_t i = 0; i < entries; ++i) sum[positions[i]] += static_cast<S>(value(m.values, m.at + i));
        m.at += entries;
      }
      if (messages.size() > 1)
        for (size_t i = 0; i < length; ++i) sum[i] /= count;
      if constexpr (!kExact)
        for (size_t i = 0; i < length; ++i) store_saturated<E>(out.data, begin + i, sum[i]);
    }
  });
}

}  // namespace tsq
