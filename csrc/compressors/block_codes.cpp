#include "compressors/block_codes.h"

#include "common/error.h"
#include "compressors/pointers.h"
#include "compressors/sweep.h"

namespace tsq {

void BlockCodes::check_block(const char* name, uint32_t block) {
  if (block < 32 || block > 4096 || (block & (block - 1)))
    throw ArgumentError(concat(name, ": block: expected a power of two from 32 to 4096, got ", block));
}

size_t BlockCodes::max_bytes(size_t n, DType) const { return kernels::quantizer_bytes(n, params_.bits, params_.block); }

double BlockCodes::expected_bits(size_t n, DType dtype) const { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

Compressor::Encoded BlockCodes::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                    MutableBytes out) const {
  const bool finite = sweep_all(x.numel, [&](size_t begin, size_t count) {
    return kernels::quantize(params_, form, x.slice(begin, count), state_at(state, x.dtype, begin), key.philox,
                             key.offset + begin, out.data() + bytes_before(begin));
  });
  return {max_bytes(x.numel, x.dtype), finite};
}

void BlockCodes::validate(Bytes in, uint64_t n, DType dtype) const {
  // The first test keeps the length formula of a hostile n from overflowing: an element takes at least one bit.
  if (n > 8 * uint64_t{in.size()} || max_bytes(n, dtype) != in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  const bool valid = sweep_all(n, [&](size_t begin, size_t count) {
    return kernels::valid_payload(params_, in.data() + bytes_before(begin), count);
  });
  if (!valid)
    throw WireError(
        concat("bad message: payload of ", spec(), ": expected finite scales and legal codes, found others"));
}

void BlockCodes::decode_add(Bytes in, DType, double scale, View acc) const {
  sweep(acc.numel, [&](size_t begin, size_t count) {
    kernels::dequantize_add(params_, in.data() + bytes_before(begin), count, scale, acc.slice(begin, count));
  });
}

void BlockCodes::decode_mean(std::span<const Bytes> in, View out) const {
  sweep(out.numel, [&](size_t begin, size_t count) {
    const Pointers pointers(in, bytes_before(begin));
    kernels::dequantize_mean(params_, pointers.data(), in.size(), out.slice(begin, count));
  });
}

}  // namespace tsq
