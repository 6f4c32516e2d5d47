// One slice of a parameter on its way through a mechanism and a message. What Sender, Receiver and the hook share.
#pragma once

#include "mechanisms/mechanism.h"
#include "wire/message.h"

namespace tsq {

/// What to do with a parameter's slice in this step. The same for all slices of a parameter.
enum class Delivery : uint8_t {
  kSend,  ///< the normal case
  kMark,  ///< the parameter has an Inf or NaN: send the flag, keep the state as it is
  kHold,  ///< the parameter took no part in this step: send zeros, keep the state as it is
};

/// kMark if x has an Inf or NaN, or overflows when added to the state; else kSend. Reads x once, only if there is
/// state; the state only if x has magnitudes of 2^96 or more.
Delivery inspect(const Mechanism& mechanism, ConstView x, std::span<const View> state);

/// Adds the slice's sections to `out`. True if the state has changed: the slice was sent.
bool send_slice(const Mechanism& mechanism, Delivery delivery, ConstView x, std::span<const View> state,
                const StepKey& key, Parts& out);

/// Makes `out` the sections that stand for zeros, or for NaN where `marked`.
void fill_void(const Mechanism& mechanism, DType dtype, bool first, bool marked, Parts& out);

/// The payloads of `parts`, section by section.
std::vector<Bytes> payloads_of(const Parts& parts);

/// Checks sections [index, index + parts) of a message against what is due. Throws WireError.
void check_slice(const wire::Message& message, size_t index, const Mechanism& mechanism, size_t numel, bool first);

/// Sections [index, index + parts) of a message.
Arrived arrived(const wire::Message& message, size_t index, const Mechanism& mechanism);

/// The estimate from what has arrived from every rank, checked; NaN everywhere if one of them is marked. Returns false
/// in that case. `state`: the receiver's.
bool receive_slice(const Mechanism& mechanism, std::span<const Arrived> from, std::span<const View> state,
                   const StepKey& key, View out);

/// EncodeKey::rate for the next step: moves `rate` so that messages of `numel` elements that took `bytes` come to
/// `target_bits` per element. Ignores nearly empty messages.
double next_rate(double rate, double target_bits, size_t numel, size_t bytes);

}  // namespace tsq
