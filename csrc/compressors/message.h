// One self-describing message of one vector, and the decoder of any message: what tsq.encode, tsq.decode and the ops
// do.
#pragma once

#include "compressors/compressor.h"

namespace tsq {

/// Hard maximum of encode_message's result, in bytes.
size_t max_message_bytes(const Compressor& compressor, size_t n, DType dtype);

/// Writes x as one message of `rank` (of `world_size` ranks) in `step` into `out` (>= max_message_bytes) and returns
/// its length. Parameter number 0. Open choices of the compressor are made as for Direct (unbiased). If x has an Inf or
/// NaN that the codec cannot carry, the message is marked.
size_t encode_message(const Compressor& compressor, ConstView x, uint64_t seed, uint64_t step, uint32_t rank,
                      MutableBytes out, uint32_t world_size = 1);

/// Checks all of a message, payloads included; `numel` becomes its total number of elements. Throws WireError.
wire::Message check_message(Bytes bytes, uint64_t* numel);

/// Throws WireError unless section `index` has a legal payload for `compressor`; one that is marked has none but zeros.
void validate_section(const Compressor& compressor, const wire::Message& message, size_t index);

/// Decodes a checked message into `out` (numel elements of the header's dtype), section after section; NaN where
/// marked.
void decode_message(const wire::Message& message, View out);

/// out[i] = NaN: what a marked section decodes to.
void fill_nan(View out);

}  // namespace tsq
