#include "compressors/sparse_sign.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/error.h"
#include "compressors/chooser.h"
#include "compressors/chosen.h"
#include "compressors/random_values.h"
#include "compressors/sparse_decode.h"
#include "compressors/sums.h"

namespace tsq {

namespace {

constexpr size_t kScaleBytes = sizeof(float);

/// What a valid payload says of entries' values.
struct Signs {
  float scale;
  const uint8_t* bits;
};

float value_of(const Signs& signs, size_t j) { return signs.bits[j / 8] >> (j % 8) & 1 ? -signs.scale : signs.scale; }

/// Of checked payloads.
std::vector<SparseCursor<Signs>> cursors(std::span<const Bytes> in, size_t n) {
  std::vector<SparseCursor<Signs>> messages;
  for (const Bytes& payload : in) {
    const wire::IndexReader reader(payload.subspan(kScaleBytes), n);
    messages.push_back({reader, {load<float>(payload.data()), payload.data() + kScaleBytes + reader.bytes()}});
  }
  return messages;
}

size_t sign_bytes(size_t count) { return (count + 7) / 8; }

}  // namespace

Class SparseSign::class_of(size_t n, uint32_t) const {
  if (!config_.fitted || n == 0) return {};
  const auto k = static_cast<double>(count_.of(n));
  return {.omega = std::nullopt, .alpha = std::min(1.0 / k, k / static_cast<double>(n))};
}

size_t SparseSign::max_bytes(size_t n, DType) const {
  const size_t k = count_.of(n);
  return kScaleBytes + wire::max_index_bytes(n, k) + sign_bytes(k);
}

size_t SparseSign::zero_bytes(size_t n, DType) const { return kScaleBytes + wire::max_index_bytes(n, 0); }

template <class S>
float SparseSign::scale_of(kernels::Form form, ConstView x, const void* state, const Selection<S>& kept) const {
  if (config_.fitted) {
    const double sum = lane_sum(kept.count, [&](size_t j) { return std::abs(static_cast<double>(kept.value[j])); });
    return saturated<float>(kept.count ? sum / static_cast<double>(kept.count) : 0.0);
  }
  return saturated<float>(std::sqrt(squared_norm_of(form, x, state)));
}

/// Selects at most count_ entries, what the chooser wants of them: what it chose; none if an element is not finite.
template <class S>
std::optional<Compressor::Choice> SparseSign::choose(kernels::Form form, ConstView x, void* state,
                                                     const EntryChooser& chooser, Selection<S>& kept) const {
  const auto pick = [&](std::span<const S> candidates) {
    return chooser.signs(candidates, {x.numel, 1.0, 8.0 * kScaleBytes});
  };
  if (!select_chosen(form, x, state, count_.of(x.numel), kept, pick)) return std::nullopt;
  const double sum = lane_sum(kept.count, [&](size_t j) { return std::abs(static_cast<double>(kept.value[j])); });
  return Choice{kept.count, sum * sum / (static_cast<double>(kept.count) * squared_norm_of(form, x, state))};
}

Compressor::Encoded SparseSign::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                    MutableBytes out) const {
  if (x.numel >> 32) throw ArgumentError(concat("SparseSign: expected fewer than 2^32 elements, got ", x.numel));
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using S = typename decltype(element)::State;
    thread_local Selection<S> kept;  // reused: as large as the largest section's
    std::optional<Choice> choice;
    if (key.chooser) choice = choose(form, x, state, *key.chooser, kept);
    const bool finite = key.chooser ? choice.has_value() : select_largest(form, x, state, count_.of(x.numel), kept);
    const float scale = finite && kept.count ? scale_of(form, x, state, kept) : 0.0f;
    if (scale == 0) {
      const size_t bytes = zero_bytes(x.numel, x.dtype);
      std::fill_n(out.begin(), bytes, uint8_t{0});
      return {bytes, finite, choice};
    }
    store<float>(out.data(), scale);
    const size_t at =
        kScaleBytes + wire::encode_indices({kept.index.data(), kept.count}, x.numel, out.data() + kScaleBytes);
    const size_t bytes = at + sign_bytes(kept.count);
    std::fill(out.begin() + static_cast<ptrdiff_t>(at), out.begin() + static_cast<ptrdiff_t>(bytes), uint8_t{0});
    S* const v = static_cast<S*>(state);
    for (size_t j = 0; j < kept.count; ++j) {
      const bool negative = kept.value[j] < 0;
      out[at + j / 8] = static_cast<uint8_t>(out[at + j / 8] | uint8_t{negative} << j % 8);
      const S sent = negative ? -scale : scale;
      if (form == kernels::Form::kResidual) v[kept.index[j]] -= sent;
      if (form == kernels::Form::kShifted) v[kept.index[j]] += sent;
    }
    return {bytes, true, choice};
  });
}

void SparseSign::validate(Bytes in, uint64_t n, DType) const {
  if (in.size() < kScaleBytes) throw_wire("bytes", "a scale", in.size());
  const auto scale = load<float>(in.data());
  const Bytes indices = in.subspan(kScaleBytes);
  const wire::IndexExtent extent = wire::index_extent(indices, n);
  if (extent.count > count_.of(n)) throw_wire("payload", concat("at most ", count_.of(n), " entries"), extent.count);
  if (indices.size() != extent.bytes + sign_bytes(extent.count))
    throw_wire("bytes", concat(kScaleBytes + extent.bytes, " and ", extent.count, " sign bits"), in.size());
  wire::check_indices(indices, n);
  if (!std::isfinite(scale) || std::signbit(scale) || (scale == 0) != (extent.count == 0))
    throw_wire("payload", "a finite scale, above 0 if and only if there are entries", scale);
  if (extent.count % 8 && in.back() >> extent.count % 8) throw_wire("payload", "zeros behind the signs", "others");
}

void SparseSign::decode_add(Bytes in, DType, double scale, View acc) const {
  const auto messages = cursors({&in, 1}, acc.numel);
  add_parts(acc, visit_entries(std::span(messages), acc.numel, scale, value_of));
}

void SparseSign::decode_mean(std::span<const Bytes> in, View out) const {
  const auto messages = cursors(in, out.numel);
  mean_parts(in.size(), out, visit_entries(std::span(messages), out.numel, 1.0, value_of), StoreSaturated());
}

void SparseSign::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  const auto messages = cursors(in, acc.numel);
  update_parts(acc, out, visit_entries(std::span(messages), acc.numel, scale, value_of));
}

}  // namespace tsq
