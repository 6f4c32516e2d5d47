// Reading sparse vectors: what codecs 6 and 8, which differ in their values, share.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "compressors/accumulate.h"
#include "compressors/sweep.h"
#include "compressors/values.h"
#include "wire/indices.h"

namespace tsq {

/// What is left to read of one message; `values` is what its values are read from.
template <class V>
struct SparseCursor {
  wire::IndexReader indices;
  V values;
  size_t at = 0;
};

/// The visit of compressors/accumulate.h: scale * value(values, j) for the j-th entry of one message after the other,
/// multiplied and added in the sums' type, for each segment of a vector of n elements.
template <class V, class Value>
auto visit_entries(std::span<const SparseCursor<V>> messages, size_t n, double scale, const Value& value) {
  return [=](const auto& start, const auto& done) {
    sweep(n, [&](size_t first, size_t numel) {
      std::vector<SparseCursor<V>> mine(messages.begin(), messages.end());
      for (SparseCursor<V>& m : mine) m.at = m.indices.skip(first / wire::kSegment);
      uint16_t positions[wire::kSegment];
      for (size_t begin = first, end = first + numel; begin < end; begin += wire::kSegment) {
        const View sums = start(begin, std::min(wire::kSegment, end - begin));
        for (SparseCursor<V>& m : mine) {
          const size_t entries = m.indices.next(positions);
          const auto add = [&](auto* sum, auto factor) {
            for (size_t i = 0; i < entries; ++i)
              sum[positions[i]] += factor * static_cast<decltype(factor)>(value(m.values, m.at + i));
          };
          sums.dtype == DType::kFloat64 ? add(sums.as<double>(), scale)
                                        : add(sums.as<float>(), static_cast<float>(scale));
          m.at += entries;
        }
        done(begin, sums);
      }
    });
  };
}

struct StoreSaturated {
  template <class E>
  void operator()(E, void* to, size_t i, typename E::State value) const {
    store_saturated<E>(to, i, value);
  }
};

}  // namespace tsq
