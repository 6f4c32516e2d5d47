#include "mechanisms/error_feedback.h"

#include "common/convert.h"

namespace tsq {

bool ErrorFeedback::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const Compressor::Encoded sent = compressor().encode_residual(x, state[0], out.keyed(key.encode), out.room());
  if (sent.finite) out.add(compressor(), sent);
  return sent.finite;
}

bool ErrorFeedback::retract(const Arrived& sent, ConstView x, std::span<const View> state) const {
  const View& e = state[0];
  compressor().decode_add(sent.payloads[0], x.dtype, 1.0, e);
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    auto* residual = e.as<typename E::State>();
    for (size_t i = 0; i < x.numel; ++i) residual[i] -= E::load(x.data, i);
  });
  return true;
}

}  // namespace tsq
