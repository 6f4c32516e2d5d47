// One self-describing message of one vector, and the decoder of any message: what tsq.encode, tsq.decode and the ops
// do.
#pragma once

#include "compressors/compressor.h"
#include "kernels/quantizer.h"

namespace tsq {

/// Hard maximum of encode_message's result, in bytes.
size_t max_message_bytes(const Compressor& compressor, size_t n, DType dtype);

/// Writes x as one message of `rank` (of `world_size` ranks) in `step` into `out` (>= max_message_bytes) and returns
/// its length. Parameter number 0. Open choices of the compressor are made as for Direct (unbiased). If x has an Inf or
/// NaN that the codec cannot carry, the message is marked.
size_t encode_message(const Compressor& compressor, ConstView x, uint64_t seed, uint64_t step, uint32_t rank,
                      MutableBytes out, uint32_t world_size = 1);

/// The other two forms, and the key of a whole world.
struct Encoding {
  kernels::Form form = kernels::Form::kPlain;
  View state{};  ///< x.numel elements of state_dtype(x.dtype); not for kPlain
  uint64_t seed = 0, step = 0;
  uint32_t rank = 0, world_size = 1;
};

/// encode_message in this form. With a state, the compressor's open choices are made as for error feedback
/// (contractive), and a marked message leaves the state as it was (to rounding, if a finite x and a finite state
/// overflow together).
size_t encode_message(const Compressor& compressor, ConstView x, const Encoding& encoding, MutableBytes out);

/// Whether |x| + |state| is finite in float32, element by element: what a codec with a state is sure to be able to
/// send. Reads the state only if x has magnitudes of 2^96 or more.
bool finite_with(ConstView x, const View& state);

/// The most elements of a message that is decoded on its own. Few bytes may claim any number of them (codec 12 needs
/// none).
constexpr uint64_t kMaxDecoded = uint64_t{1} << 32;

/// Checks all of a message, payloads included; `numel` becomes its total number of elements, at most kMaxDecoded.
/// Throws WireError.
wire::Message check_message(Bytes bytes, uint64_t* numel);

/// Throws WireError unless section `index` has a legal payload for `compressor`; one that is marked has none but zeros.
void validate_section(const Compressor& compressor, const wire::Message& message, size_t index);

/// Decodes a checked message into `out` (numel elements of the header's dtype), section after section; NaN where
/// marked.
void decode_message(const wire::Message& message, View out);

/// acc += scale * the checked message's values, acc of float32 or float64; NaN where marked.
void decode_message_add(const wire::Message& message, double scale, View acc);

/// out[i] = NaN: what a marked section decodes to.
void fill_nan(View out);

}  // namespace tsq
