// LAG(zeta) and CLAG(c, zeta): h = h + C(x - h) if |x - h|^2 > zeta |x - y|^2, else nothing is sent; y is the previous
// gradient. LAG is CLAG with the identity. 3PC(S(alpha), max{(1-alpha)/S(alpha), zeta}). Sources: Chen et al. 2018
// (LAG), Richtarik et al. 2022 (this trigger, CLAG). The norms are those of the slice. docs/algorithms.md.
#pragma once

#include "mechanisms/estimate.h"

namespace tsq {

class Lazy final : public EstimateReceiver {
 public:
  /// compressor null: LAG. Throws ArgumentError unless zeta >= 0.
  Lazy(const CompressorPtr& compressor, double zeta, Init init);

  std::string spec() const override;
  bool has_fixed_size(bool first) const override { return first && starts_dense(); }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  bool inspects() const override { return true; }
  std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const override;

 private:
  /// A step with a trigger. S: the state's type.
  template <class S>
  bool send_if_far(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const;

  CompressorPtr written_;
  const TopK* sparse_;  // the compressor, if it is Top-K
  double zeta_;
};

}  // namespace tsq
