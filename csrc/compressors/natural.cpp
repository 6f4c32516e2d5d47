#include "compressors/natural.h"

#include "compressors/script.h"

#include "common/error.h"
#include "compressors/pointers.h"
#include "compressors/sweep.h"

namespace tsq {

std::optional<double> Natural::script_L(const Smoothness& L, size_t n, uint32_t) const {
  return largest_of_blocks(L, n, 0, [](const MetricBlock& all) { return all.largest / 8; });
}

Compressor::Encoded Natural::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                 MutableBytes out) const {
  const bool finite = sweep_all(x.numel, [&](size_t begin, size_t count) {
    return kernels::encode_natural(form, x.slice(begin, count), state_at(state, x.dtype, begin), key.philox,
                                   key.offset + begin, out.data() + kernels::natural_bytes(begin));
  });
  return {kernels::natural_bytes(x.numel), finite};
}

void Natural::validate(Bytes in, uint64_t n, DType) const {
  // The first test keeps the length formula of a hostile n from overflowing: an element takes at least one byte.
  if (n > in.size() || kernels::natural_bytes(n) != in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  const bool valid = sweep_all(n, [&](size_t begin, size_t count) {
    return kernels::valid_natural(in.data() + kernels::natural_bytes(begin), count);
  });
  if (!valid)
    throw WireError(concat(kBadMessage, ": payload of ", spec(), ": expected legal exponents and signs, found others"));
}

void Natural::decode_add(Bytes in, DType, double scale, View acc) const {
  sweep(acc.numel, [&](size_t begin, size_t count) {
    kernels::decode_natural_add(in.data() + kernels::natural_bytes(begin), count, scale, acc.slice(begin, count));
  });
}

void Natural::decode_mean(std::span<const Bytes> in, View out) const {
  sweep(out.numel, [&](size_t begin, size_t count) {
    const Pointers pointers(in, kernels::natural_bytes(begin));
    kernels::decode_natural_mean(pointers.data(), in.size(), out.slice(begin, count));
  });
}

void Natural::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  sweep_update(in, acc, out, [&](const Bytes& payload, size_t begin, View sums) {
    kernels::decode_natural_add(payload.data() + kernels::natural_bytes(begin), sums.numel, scale, sums);
  });
}

}  // namespace tsq
