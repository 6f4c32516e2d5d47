// ErrorFeedback (EF14): p = e + g; send C(p); e = p - C(p). What a message leaves out is owed to the next one.
// Source: Seide et al. 2014; constants and Lyapunov function in docs/algorithms.md. In gradient units: the optimizer's
// step size comes later. Conservation: sum of messages + residual = sum of gradients.
#pragma once

#include "mechanisms/mechanism.h"

namespace tsq {

class ErrorFeedback final : public Mechanism {
 public:
  explicit ErrorFeedback(const CompressorPtr& compressor)
      : written_(compressor), compressor_(compressor->as_contractive()) {}

  std::string spec() const override { return "ErrorFeedback(" + written_->spec() + ")"; }
  const Compressor& compressor() const override { return *compressor_; }
  std::span<const char* const> state_names() const override;

  Compressor::Encoded send(ConstView x, std::span<const View> state, const EncodeKey& key,
                           MutableBytes out) const override;
  void retract(Bytes payload, ConstView x, std::span<const View> state) const override;

 private:
  CompressorPtr written_;
  CompressorPtr compressor_;
};

}  // namespace tsq
