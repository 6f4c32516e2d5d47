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

/// What the sections of one part aimed at and took, over all slices of a parameter.
struct Aim {
  double wanted_bits = 0;
  size_t bytes = 0;
};

/// Adds what was sent of a slice to `aims`, by part. Whole vectors and skipped parts aim at nothing.
void add_aims(std::span<const wire::Section> sections, std::span<const std::optional<double>> targets,
              std::vector<Aim>& aims);

/// EncodeKey::rate by part, moved so that the next step comes to what was wanted. `rates` grows to the number of parts,
/// by ones. Nearly empty messages say nothing.
void next_rates(std::span<const Aim> aims, std::vector<double>& rates);

}  // namespace tsq
