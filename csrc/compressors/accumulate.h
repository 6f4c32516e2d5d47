// decode_add, decode_update and decode_mean of codecs that read a payload part after part.
//
// They differ in where a part's sums are and in what becomes of them. What a codec brings is visit(start, done): for
// every part of the vector, in any order and on any thread, sums = start(begin, length), a View of float32 or float64;
// then the decoded values of one message after the other are added to it; then done(begin, sums). A part should fit
// into the cache.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "common/convert.h"
#include "compressors/deliver.h"

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

/// Compressor::decode_add.
template <class Visit>
void add_parts(View acc, const Visit& visit) {
  visit([&](size_t begin, size_t length) { return acc.slice(begin, length); }, [](size_t, View) {});
}

/// Compressor::decode_update.
template <class Visit>
void update_parts(View acc, View out, const Visit& visit) {
  visit([&](size_t begin, size_t length) { return acc.slice(begin, length); },
        [&](size_t begin, View sums) { deliver(out.slice(begin, sums.numel), sums, out.numel); });
}

struct StoreRounded {
  template <class E>
  void operator()(E, void* to, size_t i, typename E::State value) const {
    E::store(to, i, value);
  }
};

/// Compressor::decode_mean of `count` messages; visit's scale is 1. store(Element, out, i, mean) rounds.
template <class Visit, class Store = StoreRounded>
void mean_parts(size_t count, View out, const Visit& visit, const Store& store = {}) {
  with_element(out.dtype, [&](auto element) {
    using S = typename decltype(element)::State;
    const bool exact = out.dtype == state_dtype(out.dtype);
    visit(
        [&](size_t begin, size_t length) {
          thread_local std::vector<S> narrow;  // the sums of 16-bit elements
          if (!exact) narrow.resize(std::max(narrow.size(), length));
          const View sums = exact ? out.slice(begin, length) : View{narrow.data(), state_dtype(out.dtype), length};
          std::fill_n(sums.template as<S>(), length, S{0});
          return sums;
        },
        [&](size_t begin, View sums) {
          S* const sum = sums.template as<S>();
          if (count > 1)
            for (size_t i = 0; i < sums.numel; ++i) sum[i] /= static_cast<S>(count);
          if (!exact)
            for (size_t i = 0; i < sums.numel; ++i) store(element, out.data, begin + i, sum[i]);
        });
  });
}

}  // namespace tsq
