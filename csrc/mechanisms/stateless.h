// Base of the mechanisms whose messages are estimates of the gradient itself: the receiver averages and forgets.
#pragma once

#include "mechanisms/mechanism.h"

namespace tsq {

class StatelessReceiver : public Mechanism {
 public:
  const Compressor& compressor() const override { return *compressor_; }
  std::vector<CompressorPtr> codecs(size_t) const override { return {compressor_}; }
  void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key, View out) const override;

 protected:
  explicit StatelessReceiver(CompressorPtr compressor, std::vector<std::string> state_names = {})
      : Mechanism(std::move(state_names)), compressor_(std::move(compressor)) {}

 private:
  CompressorPtr compressor_;
};

}  // namespace tsq
