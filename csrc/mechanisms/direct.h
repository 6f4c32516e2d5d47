// Direct (DCGD): every step sends C(gradient); no state. Source: compressed gradient descent, docs/algorithms.md. With
// a smoothness beside the spec it becomes DCGD+ (mechanisms/whitened.h).
#pragma once

#include "mechanisms/stateless.h"
#include "mechanisms/whitening.h"

namespace tsq {

class Direct final : public StatelessReceiver {
 public:
  /// `kind`: of the smoothness that must be given; empty: none has to be.
  explicit Direct(const CompressorPtr& compressor, std::string kind = {})
      : StatelessReceiver(compressor->as_unbiased()), written_(compressor), kind_(std::move(kind)) {}

  std::string spec() const override { return "Direct(" + written_->spec() + smoothness_text(kind_) + ")"; }
  MechanismPtr with_smoothness(const SmoothnessSet& given) const override;
  const char* lacks_smoothness() const override { return kind_.empty() ? nullptr : kind_.c_str(); }

  bool send(ConstView x, std::span<const View>, const StepKey& key, Parts& out) const override {
    const Compressor::Encoded sent = compressor().encode(x, out.keyed(key.encode), out.room());
    if (sent.finite) out.add(compressor(), sent);
    return sent.finite;
  }
  bool retract(const Arrived&, ConstView, std::span<const View>) const override { return true; }
  bool divisible() const override { return compressor().divisible(); }
  std::optional<float> common_step(ConstView x, std::span<const View>, const EncodeKey& key) const override {
    return compressor().common_step(x, nullptr, key);
  }

 private:
  CompressorPtr written_;  // as the user wrote it
  std::string kind_;
};

}  // namespace tsq
