#include "compressors/sparse_vector.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "compressors/sparse_decode.h"
#include "wire/indices.h"

namespace tsq {

size_t SparseVector::max_bytes(size_t n, DType dtype) const {
  const size_t entries = max_entries(n);
  return wire::max_index_bytes(n, entries) + values_.bytes(entries, dtype);
}

size_t SparseVector::zero_bytes(size_t n, DType) const { return wire::max_index_bytes(n, 0); }

double SparseVector::expected_bits(size_t n, DType dtype) const {
  const auto entries = static_cast<size_t>(std::ceil(expected_entries(n)));
  return 8.0 * static_cast<double>(wire::max_index_bytes(n, entries) + values_.bytes(entries, dtype));
}

EntryCode SparseVector::code_of(ConstView x) const {
  constexpr size_t kMany = 4096;  // a quantizer's scales are shared by many values
  return {x.numel, 8.0 * static_cast<double>(values_.bytes(kMany, x.dtype)) / static_cast<double>(kMany), 0.0};
}

void SparseVector::check_length(const char* name, uint64_t n) {
  if (n >> 32) throw ArgumentError(concat(name, ": expected fewer than 2^32 elements, got ", n));
}

template <class S>
Compressor::Encoded SparseVector::send(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                       Selection<S>& kept, MutableBytes out) const {
  const size_t at = wire::encode_indices({kept.index.data(), kept.count}, x.numel, out.data());
  values_.write(kept.value.data(), kept.count, key, x.dtype, out.data() + at);
  S* const v = static_cast<S*>(state);
  for (size_t j = 0; j < kept.count; ++j) {
    if (form == kernels::Form::kResidual) v[kept.index[j]] -= kept.value[j];
    if (form == kernels::Form::kShifted) v[kept.index[j]] += kept.value[j];
  }
  return {at + values_.bytes(kept.count, x.dtype), true};
}

template Compressor::Encoded SparseVector::send(kernels::Form, ConstView, void*, const EncodeKey&, Selection<float>&,
                                                MutableBytes) const;
template Compressor::Encoded SparseVector::send(kernels::Form, ConstView, void*, const EncodeKey&, Selection<double>&,
                                                MutableBytes) const;

Compressor::Encoded SparseVector::send_nothing(ConstView x, MutableBytes out) const {
  const size_t bytes = zero_bytes(x.numel, x.dtype);
  std::fill_n(out.begin(), bytes, uint8_t{0});
  return {bytes, false};
}

void SparseVector::validate(Bytes in, uint64_t n, DType dtype) const {
  const wire::IndexExtent extent = wire::index_extent(in, n);
  if (extent.count > max_entries(n))
    throw_wire("payload", concat("at most ", max_entries(n), " entries"), extent.count);
  const Bytes values = in.subspan(extent.bytes);
  if (values.size() != values_.bytes(extent.count, dtype))
    throw_wire("bytes", concat(extent.bytes, " and those of ", extent.count, " values"), in.size());
  wire::check_indices(in, n);
  values_.check(values, extent.count, dtype);
}

template <class F>
void SparseVector::visit(std::span<const Bytes> in, size_t n, DType dtype, double scale, const F& f) const {
  std::vector<std::vector<float>> scratch(in.size());
  std::vector<SparseCursor<const void*>> messages;
  for (const Bytes& payload : in) {
    const wire::IndexReader reader(payload, n);
    const void* const values = values_.read(payload.data() + reader.bytes(), reader.total(), scratch[messages.size()]);
    messages.push_back({reader, values});
  }
  values_.with_type(dtype, [&](auto element) {
    const auto value = [](const void* p, size_t j) { return decltype(element)::load(p, j); };
    f(visit_entries(std::span<const SparseCursor<const void*>>(messages), n, scale, value));
  });
}

void SparseVector::decode_add(Bytes in, DType dtype, double scale, View acc) const {
  visit({&in, 1}, acc.numel, dtype, scale, [&](const auto& entries) { add_parts(acc, entries); });
}

void SparseVector::decode_mean(std::span<const Bytes> in, View out) const {
  visit(in, out.numel, out.dtype, 1.0,
        [&](const auto& entries) { mean_parts(in.size(), out, entries, StoreSaturated()); });
}

void SparseVector::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  visit(in, acc.numel, out.dtype, scale, [&](const auto& entries) { update_parts(acc, out, entries); });
}

}  // namespace tsq
