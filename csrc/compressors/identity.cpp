#include "compressors/identity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/convert.h"
#include "common/error.h"
#include "compressors/sweep.h"

namespace tsq {

namespace {

/// The largest finite number of a type.
template <class E>
constexpr typename E::State largest() {
  if constexpr (std::is_same_v<E, Element<DType::kFloat16>>) return 65504;
  if constexpr (std::is_same_v<E, Element<DType::kBFloat16>>) return 0x1.FEp127f;
  return std::numeric_limits<typename E::State>::max();
}

}  // namespace

Compressor::Encoded Identity::encode(ConstView x, const EncodeKey&, MutableBytes out) const {
  const size_t bytes = x.numel * size_of(x.dtype);
  if (bytes) std::memcpy(out.data(), x.data, bytes);
  return {bytes, true};
}

Compressor::Encoded Identity::encode_residual(ConstView x, View e, const EncodeKey&, MutableBytes out) const {
  bool finite = true;
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    for (size_t i = 0; i < x.numel; ++i) {
      const S sum = e.as<S>()[i] + E::load(x.data, i);
      E::store(out.data(), i, sum);
      const S left = sum - E::load(out.data(), i);  // what rounding to the wire's dtype kept back
      if (std::isfinite(left))
        e.as<S>()[i] = left;
      else
        finite = false;
    }
  });
  return {x.numel * size_of(x.dtype), finite};
}

Compressor::Encoded Identity::encode_shifted(ConstView x, View h, const EncodeKey&, MutableBytes out) const {
  bool finite = true;
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    for (size_t i = 0; i < x.numel; ++i) {
      const S difference = E::load(x.data, i) - h.as<S>()[i];
      // Of two 16-bit numbers it may be beyond their type: then h takes another step to get there.
      E::store(out.data(), i,
               std::isfinite(difference) ? std::clamp(difference, -largest<E>(), largest<E>()) : difference);
      const S next = h.as<S>()[i] + E::load(out.data(), i);
      if (std::isfinite(next))
        h.as<S>()[i] = next;
      else
        finite = false;
    }
  });
  return {x.numel * size_of(x.dtype), finite};
}

void Identity::validate(Bytes in, uint64_t n, DType dtype) const {
  if (in.size() % size_of(dtype) != 0 || in.size() / size_of(dtype) != n)
    throw_wire("bytes", concat(n, " elements of ", name_of(dtype)), concat(in.size(), " bytes"));
}

void Identity::decode_add(Bytes in, DType dtype, double scale, View acc) const {
  with_element(dtype, [&](auto element) {
    using E = decltype(element);
    for (size_t i = 0; i < acc.numel; ++i) {
      if (acc.dtype == DType::kFloat64)
        acc.as<double>()[i] += scale * static_cast<double>(E::load(in.data(), i));
      else
        acc.as<float>()[i] += static_cast<float>(scale) * static_cast<float>(E::load(in.data(), i));
    }
  });
}

void Identity::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  sweep_update(in, acc, out, [&](const Bytes& payload, size_t begin, View sums) {
    decode_add(payload.subspan(begin * size_of(out.dtype)), out.dtype, scale, sums);
  });
}

void Identity::decode_mean(std::span<const Bytes> in, View out) const {
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    const S count = static_cast<S>(in.size());
    for (size_t i = 0; i < out.numel; ++i) {
      S sum = 0;
      for (const Bytes& payload : in) sum += E::load(payload.data(), i);
      E::store(out.data, i, in.size() == 1 ? sum : sum / count);
    }
  });
}

}  // namespace tsq
