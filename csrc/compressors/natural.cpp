#include "compressors/natural.h"

#include "common/error.h"
#include "compressors/pointers.h"

namespace tsq {

Compressor::Encoded Natural::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                 MutableBytes out) const {
  const bool finite = kernels::encode_natural(form, x, state, key.philox, key.offset, out.data());
  return {kernels::natural_bytes(x.numel), finite};
}

void Natural::validate(Bytes in, uint64_t n, DType) const {
  // The first test keeps the length formula of a hostile n from overflowing: an element takes at least one byte.
  if (n > in.size() || kernels::natural_bytes(n) != in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  if (!kernels::valid_natural(in.data(), n))
    throw WireError(concat("bad message: payload of ", spec(), ": expected legal exponents and signs, found others"));
}

void Natural::decode_add(Bytes in, DType, double scale, View acc) const {
  kernels::decode_natural_add(in.data(), acc.numel, scale, acc);
}

void Natural::decode_mean(std::span<const Bytes> in, View out) const {
  const Pointers pointers(in);
  kernels::decode_natural_mean(pointers.data(), in.size(), out);
}

}  // namespace tsq
