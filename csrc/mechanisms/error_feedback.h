// ErrorFeedback (EF14): p = e + g; send C(p); e = p - C(p). What a message leaves out is owed to the next one.
// Source: Seide et al. 2014; constants and Lyapunov function in docs/algorithms.md. In gradient units: the optimizer's
// step size comes later. Conservation: sum of messages + residual = sum of gradients.
#pragma once

#include "mechanisms/stateless.h"

namespace tsq {

class ErrorFeedback final : public StatelessReceiver {
 public:
  explicit ErrorFeedback(const CompressorPtr& compressor)
      : StatelessReceiver(compressor->as_contractive(), {"residual"}), written_(compressor) {}

  std::string spec() const override { return "ErrorFeedback(" + written_->spec() + ")"; }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  bool retract(const Arrived& sent, ConstView x, std::span<const View> state) const override;
  bool divisible() const override { return compressor().divisible(); }
  std::optional<float> common_step(ConstView x, std::span<const View> state, const EncodeKey& key) const override {
    return compressor().common_step(x, state.data(), key);
  }

 private:
  CompressorPtr written_;
};

}  // namespace tsq
