#include "mechanisms/section.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/convert.h"
#include "common/error.h"
#include "compressors/message.h"
#include "kernels/quantizer.h"

namespace tsq {

namespace {

/// Whether |x| + |v| is finite in float32, element by element, for a state vector v.
bool sums_are_finite(ConstView x, const View& v) {
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    const auto* state = v.as<typename E::State>();
    for (size_t i = 0; i < x.numel; ++i)
      if (!std::isfinite(static_cast<float>(std::abs(E::load(x.data, i)) + std::abs(state[i])))) return false;
    return true;
  });
}

}  // namespace

Delivery inspect(const Mechanism& mechanism, ConstView x, std::span<const View> state) {
  if (mechanism.state_names().empty() || kernels::all_ordinary(x)) return Delivery::kSend;
  const bool finite = std::all_of(state.begin(), state.end(), [&](const View& v) { return sums_are_finite(x, v); });
  return finite ? Delivery::kSend : Delivery::kMark;
}

wire::Section send_section(const Mechanism& mechanism, Delivery delivery, ConstView x, std::span<const View> state,
                           const EncodeKey& key, MutableBytes out) {
  wire::Section section;
  section.format = mechanism.compressor().format();
  section.numel = x.numel;
  section.non_finite = delivery == Delivery::kMark;
  if (delivery == Delivery::kSend) {
    const Compressor::Encoded sent = mechanism.send(x, state, key, out);
    section.bytes = sent.bytes;
    section.non_finite = !sent.finite;  // with state: only if finite x and finite state overflow together
    if (sent.finite) return section;
  }
  // Nothing is delivered: zero_bytes of zeros are a legal payload of zeros in every codec.
  section.bytes = mechanism.compressor().zero_bytes(x.numel, x.dtype);
  std::fill_n(out.begin(), section.bytes, uint8_t{0});
  return section;
}

void check_section(const wire::Message& message, size_t index, const Mechanism& mechanism, size_t numel) {
  const wire::Section& section = message.sections[index];
  const Compressor& compressor = mechanism.compressor();
  if (!(section.format == compressor.format()))
    throw_wire("section", concat("one of ", compressor.spec()), "another codec or other parameters");
  if (section.numel != numel) throw_wire("numel", numel, section.numel);
  validate_section(compressor, message, index);
}

bool receive_section(const Mechanism& mechanism, std::span<const wire::Message> messages, size_t index, View out) {
  std::vector<Bytes> payloads;
  payloads.reserve(messages.size());
  for (const wire::Message& message : messages) {
    if (message.sections[index].non_finite) {
      fill_nan(out);
      return false;
    }
    payloads.push_back(message.payloads[index]);
  }
  mechanism.receive(payloads, out);
  return true;
}

}  // namespace tsq
