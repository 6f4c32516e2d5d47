#include "mechanisms/error_feedback.h"

#include "common/convert.h"

namespace tsq {

std::span<const char* const> ErrorFeedback::state_names() const {
  static constexpr const char* kNames[] = {"residual"};
  return kNames;
}

Compressor::Encoded ErrorFeedback::send(ConstView x, std::span<const View> state, const EncodeKey& key,
                                        MutableBytes out) const {
  return compressor_->encode_residual(x, state[0], key, out);
}

void ErrorFeedback::retract(Bytes payload, ConstView x, std::span<const View> state) const {
  const View& e = state[0];
  compressor_->decode_add(payload, x.dtype, 1.0, e);
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    auto* residual = e.as<typename E::State>();
    for (size_t i = 0; i < x.numel; ++i) residual[i] -= E::load(x.data, i);
  });
}

}  // namespace tsq
