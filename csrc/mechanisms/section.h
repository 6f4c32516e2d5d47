// One section of a message: a slice of a parameter on its way through a mechanism. What Sender, Receiver and the hook
// share.
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

/// Writes the payload into `out` and returns its table entry.
wire::Section send_section(const Mechanism& mechanism, Delivery delivery, ConstView x, std::span<const View> state,
                           const EncodeKey& key, MutableBytes out);

/// Checks section `index` of a message against what is due. Throws WireError.
void check_section(const wire::Message& message, size_t index, const Mechanism& mechanism, size_t numel);

/// The mean over the messages' sections `index`, all checked; NaN everywhere if one of them is marked.
/// Returns false in that case.
bool receive_section(const Mechanism& mechanism, std::span<const wire::Message> messages, size_t index, View out);

}  // namespace tsq
