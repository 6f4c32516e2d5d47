// EF21(c, momentum=None): h = h + C(x - h); the receiver's estimate is the mean of the h_i. 3PC(S(alpha),
// (1-alpha)/S(alpha)), S(alpha) = 1 - sqrt(1-alpha). With momentum = eta: EF21-SGDM, v = (1-eta) v + eta x in place of
// x. Sources: Richtarik, Sokolov, Fatkhullin 2021; Fatkhullin, Tyurin, Richtarik 2023. docs/algorithms.md.
#pragma once

#include "mechanisms/estimate.h"

namespace tsq {

class EF21 final : public EstimateReceiver {
 public:
  struct Config {
    std::optional<double> momentum;  ///< in (0, 1]
    Init init = Init::kDense;
  };

  EF21(const CompressorPtr& compressor, const Config& config);

  const std::optional<double>& momentum() const { return config_.momentum; }

  std::string spec() const override;
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  bool inspects() const override { return sparse_ && !config_.momentum; }
  std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const override;

 private:
  /// A later step without momentum.
  bool send_shifted(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const;

  CompressorPtr written_;
  const TopK* sparse_;  // the compressor, if it is Top-K
  Config config_;
};

}  // namespace tsq
