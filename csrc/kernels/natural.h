// Natural compression's kernels: every element to a power of two. Definition: docs/wire_format.md, codec 4. Rules as in
// quantizer.h: SIMD here and the oracle in tsq::kernels::scalar, the same bytes; nothing allocates or throws.
#pragma once

#include "kernels/quantizer.h"

namespace tsq::kernels {

/// Exact payload length of n elements, in bytes.
constexpr size_t natural_bytes(size_t n) { return n + 32 * ((n + 255) / 256); }

/// Encodes x into `out` (natural_bytes(x.numel) bytes). `state` has x.numel elements of state_dtype(x.dtype); null for
/// kPlain. `offset` is the place of x[0] in its parameter, a multiple of 256. Returns false if a compressed quantity
/// (x, e + x or x - h) reaches 2^127 or is not finite in fp32: its tile of 256 elements is written as zeros and its
/// state left as it was; all other tiles are encoded normally. Reads x and state once, writes state and out once.
bool encode_natural(Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset, uint8_t* out);

/// acc[i] += scale * value[i], as dequantize_add.
void decode_natural_add(const uint8_t* in, size_t n, double scale, View acc);

/// out[i] = (((0 + value_0[i]) + value_1[i]) + ...) / count, as dequantize_mean.
void decode_natural_mean(const uint8_t* const* in, size_t count, View out);

/// True if the payload of natural_bytes(n) bytes is legal.
bool valid_natural(const uint8_t* in, size_t n);

namespace scalar {
bool encode_natural(Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset, uint8_t* out);
void decode_natural_add(const uint8_t* in, size_t n, double scale, View acc);
void decode_natural_mean(const uint8_t* const* in, size_t count, View out);
bool valid_natural(const uint8_t* in, size_t n);
/// decode_natural_mean of the elements from `begin` (a multiple of 256) on of each payload into all of `out`.
void decode_natural_mean_from(const uint8_t* const* in, size_t count, size_t begin, View out);
}  // namespace scalar

}  // namespace tsq::kernels
