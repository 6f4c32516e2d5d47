// Direct (DCGD): every step sends C(gradient); no state. Source: compressed gradient descent, docs/algorithms.md.
#pragma once

#include "mechanisms/stateless.h"

namespace tsq {

class Direct final : public StatelessReceiver {
 public:
  explicit Direct(const CompressorPtr& compressor)
      : StatelessReceiver(compressor->as_unbiased()), written_(compressor) {}

  std::string spec() const override { return "Direct(" + written_->spec() + ")"; }

  bool send(ConstView x, std::span<const View>, const StepKey& key, Parts& out) const override {
    const Compressor::Encoded sent = compressor().encode(x, key.encode, out.room());
    if (sent.finite) out.add(compressor().format(), sent);
    return sent.finite;
  }
  bool retract(const Arrived&, ConstView, std::span<const View>) const override { return true; }

 private:
  CompressorPtr written_;  // as the user wrote it
};

}  // namespace tsq
