// DIANA(c, alpha=None): m = c(x - h), h = h + alpha m; the receiver delivers hbar + mean m and then moves
// hbar = hbar + alpha mean m. Unbiased; the shifts learn the gradients at the optimum, so that the noise vanishes
// there. alpha = None: 1 / (1 + omega). With a smoothness beside the spec: DIANA+ (mechanisms/whitened.h). Sources:
// Mishchenko et al. 2019; Horvath et al. 2019. docs/algorithms.md.
#pragma once

#include "mechanisms/estimate.h"
#include "mechanisms/whitening.h"

namespace tsq {

class Diana final : public EstimateReceiver {
 public:
  /// Throws ArgumentError unless the compressor is unbiased and alpha in (0, 1].
  /// `kind`: of the smoothness that must be given; empty: none has to be.
  Diana(const CompressorPtr& compressor, std::optional<double> alpha, std::string kind = {});

  std::string spec() const override;
  MechanismPtr with_smoothness(const SmoothnessSet& given) const override;
  const char* lacks_smoothness() const override { return kind_.empty() ? nullptr : kind_.c_str(); }
  bool moves_shift() const override { return false; }  // by alpha of it
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key, View out) const override;

  /// The step of the shifts on n elements.
  double alpha(size_t n, uint32_t world_size) const;

 private:
  CompressorPtr written_;
  std::optional<double> alpha_;
  std::string kind_;
};

}  // namespace tsq
