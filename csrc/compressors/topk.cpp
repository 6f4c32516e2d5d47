#include "compressors/topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/convert.h"
#include "common/error.h"
#include "common/expression.h"
#include "wire/indices.h"

namespace tsq {

namespace {

/// Rounds to the wire's type, to its largest number instead of Inf; returns what the receiver will read.
template <class E>
typename E::State store_saturated(void* to, size_t i, typename E::State value) {
  E::store(to, i, value);
  auto stored = E::load(to, i);
  if (std::isinf(stored)) {  // only 16-bit types: value is finite
    const bool half = std::is_same_v<E, Element<DType::kFloat16>>;
    E::store(to, i, std::copysign(static_cast<typename E::State>(half ? 65504.0 : 0x1.FEp127), value));
    stored = E::load(to, i);
  }
  return stored;
}

/// Calls f(i, value) for the entries of a valid payload, in index order.
template <class E, class F>
void for_each_entry(Bytes in, size_t n, F&& f) {
  uint16_t positions[wire::kSegment];
  wire::IndexReader reader(in, n);
  const uint8_t* values = in.data() + reader.bytes();
  size_t j = 0;
  for (size_t begin = 0; begin < n; begin += wire::kSegment) {
    const size_t count = reader.next(positions);
    for (size_t i = 0; i < count; ++i) f(begin + positions[i], E::load(values, j++));
  }
}

}  // namespace

TopK::TopK(const Config& config) : config_(config) {
  if (config.ratio.has_value() == config.k.has_value())
    throw ArgumentError(concat("TopK: expected one of ratio and k, got ", config.k ? "both" : "none"));
  if (config.ratio && !(*config.ratio > 0 && *config.ratio <= 1))
    throw ArgumentError(concat("TopK: ratio: expected a number above 0, at most 1, got ", *config.ratio));
  if (config.k && *config.k == 0) throw ArgumentError("TopK: k: expected at least 1, got 0");
}

size_t TopK::target(uint64_t n) const {
  if (config_.k) return std::min<uint64_t>(*config_.k, n);
  const double wanted = std::max(1.0, std::ceil(*config_.ratio * static_cast<double>(n)));
  return wanted >= static_cast<double>(n) ? n : static_cast<uint64_t>(wanted);
}

std::string TopK::spec() const {
  Value value;
  if (config_.k) return concat("TopK(k=", *config_.k, ")");
  value.kind = Value::Kind::kFloat;
  value.number = *config_.ratio;
  return concat("TopK(ratio=", to_string(value), ")");
}

Class TopK::class_of(size_t n, uint32_t) const {
  const size_t k = target(n);
  if (k == n) return {.omega = 0.0, .alpha = 1.0};
  return {.omega = std::nullopt, .alpha = static_cast<double>(k) / static_cast<double>(n)};
}

size_t TopK::max_bytes(size_t n, DType dtype) const {
  const size_t k = target(n);
  return wire::max_index_bytes(n, k) + k * size_of(dtype);
}

size_t TopK::zero_bytes(size_t n, DType) const { return wire::max_index_bytes(n, 0); }

double TopK::expected_bits(size_t n, DType dtype) const { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

Compressor::Encoded TopK::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                              MutableBytes out) const {
  if (x.numel >> 32) throw ArgumentError(concat("TopK: expected fewer than 2^32 elements, got ", x.numel));
  return with_element(x.dtype, [&](auto element) -> Encoded {
    thread_local Selection<typename decltype(element)::State> kept;  // reused: as large as the largest section
    if (!select_largest(form, x, state, target(x.numel), kept)) {
      const size_t bytes = zero_bytes(x.numel, x.dtype);
      std::fill_n(out.begin(), bytes, uint8_t{0});
      return {bytes, false};
    }
    return send(form, x, state, key, kept, out);
  });
}

template <class S>
Compressor::Encoded TopK::send(kernels::Form form, ConstView x, void* state, const EncodeKey&, Selection<S>& kept,
                               MutableBytes out) const {
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using E = decltype(element);
    if constexpr (std::is_same_v<typename E::State, S>) {
      const size_t count = kept.count;
      const uint32_t* index = kept.index.data();
      S* const value = kept.value.data();
      const size_t at = wire::encode_indices({index, count}, x.numel, out.data());
      S* const v = static_cast<S*>(state);
      for (size_t j = 0; j < count; ++j) value[j] = store_saturated<E>(out.data() + at, j, value[j]);
      if (form == kernels::Form::kResidual)  // it is e + x
        for (size_t j = 0; j < count; ++j) v[index[j]] -= value[j];
      if (form == kernels::Form::kShifted)
        for (size_t j = 0; j < count; ++j) v[index[j]] += value[j];
      return {at + count * size_of(x.dtype), true};
    }
    return {};
  });
}

template Compressor::Encoded TopK::send(kernels::Form, ConstView, void*, const EncodeKey&, Selection<float>&,
                                        MutableBytes) const;
template Compressor::Encoded TopK::send(kernels::Form, ConstView, void*, const EncodeKey&, Selection<double>&,
                                        MutableBytes) const;

void TopK::validate(Bytes in, uint64_t n, DType dtype) const {
  const wire::IndexExtent extent = wire::index_extent(in, n);
  if (extent.count > target(n)) throw_wire("payload", concat("at most ", target(n), " entries"), extent.count);
  const uint64_t values = in.size() - extent.bytes;
  if (values % size_of(dtype) != 0 || values / size_of(dtype) != extent.count)
    throw_wire("bytes", concat(extent.bytes, " and ", extent.count, " values of ", name_of(dtype)), in.size());
  wire::check_indices(in, n);
  with_element(dtype, [&](auto element) {
    for (uint64_t j = 0; j < extent.count; ++j)
      if (!std::isfinite(decltype(element)::load(in.data() + extent.bytes, j)))
        throw_wire("payload", "finite values", "others");
  });
}

void TopK::decode_add(Bytes in, DType dtype, double scale, View acc) const {
  with_element(dtype, [&](auto element) {
    using E = decltype(element);
    if (acc.dtype == DType::kFloat64)
      for_each_entry<E>(in, acc.numel,
                        [&](size_t i, auto v) { acc.as<double>()[i] += scale * static_cast<double>(v); });
    else
      for_each_entry<E>(in, acc.numel, [&](size_t i, auto v) {
        acc.as<float>()[i] += static_cast<float>(scale) * static_cast<float>(v);
      });
  });
}

// All messages' entries of one segment, then the next segment: the sums stay in the cache.
void TopK::decode_mean(std::span<const Bytes> in, View out) const {
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    uint16_t positions[wire::kSegment];
    constexpr bool kExact = std::is_same_v<E, Element<DType::kFloat32>> || std::is_same_v<E, Element<DType::kFloat64>>;
    std::vector<S> sums(kExact ? 0 : std::min(out.numel, wire::kSegment));  // of one segment; else in `out` itself
    std::vector<wire::IndexReader> readers;
    std::vector<const uint8_t*> values;
    for (const Bytes& payload : in) {
      readers.emplace_back(payload, out.numel);
      values.push_back(payload.data() + readers.back().bytes());
    }
    const S count = static_cast<S>(in.size());
    for (size_t begin = 0; begin < out.numel; begin += wire::kSegment) {
      const size_t length = std::min(wire::kSegment, out.numel - begin);
      S* const sum = kExact ? out.as<S>() + begin : sums.data();
      std::fill_n(sum, length, S{0});
      for (size_t m = 0; m < in.size(); ++m) {
        const size_t entries = readers[m].next(positions);
        for (size_t i = 0; i < entries; ++i) sum[positions[i]] += E::load(values[m], i);
        values[m] += entries * size_of(out.dtype);
      }
      if (in.size() > 1)
        for (size_t i = 0; i < length; ++i) sum[i] /= count;
      if constexpr (!kExact)
        for (size_t i = 0; i < length; ++i) E::store(out.data, begin + i, sum[i]);
    }
  });
}

}  // namespace tsq
