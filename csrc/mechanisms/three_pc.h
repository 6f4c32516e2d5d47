// ThreePC(c, variant, second, p): the three point compressors v1 to v5 of Richtarik et al. 2022. With x the gradient, y
// the previous one, h the estimate before:
//   1   y + c(x - y)                                        3PC(1, 1 - alpha): idealised, y travels too
//   2   b = h + q(x - y);        b + c(x - b)               3PC(alpha, (1 - alpha) omega), q = second, unbiased
//   3   b = second_{h,y}(x);     b + c(x - b)               3PC(1 - (1-alpha)(1-A), (1-alpha) B), second 3PC(A, B)
//   4   b = h + c2(x - h);       b + c(x - b)               as EF21, 1 - alpha = (1-alpha_1)(1-alpha_2); c2 = second
//   5   x with probability p, else h + c(x - y)             3PC(S(p), (1-p)(1-alpha)/S(p)); the coin is shared
// docs/algorithms.md.
#pragma once

#include "mechanisms/estimate.h"

namespace tsq {

class ThreePC final : public EstimateReceiver {
 public:
  struct Config {
    int variant = 2;
    CompressorPtr second;     ///< variants 2 and 4
    MechanismPtr inner;       ///< variant 3: one that moves_shift()
    std::optional<double> p;  ///< variant 5, in (0, 1]
    Init init = Init::kDense;
  };

  /// Throws ArgumentError for what a variant does not take, or lacks.
  ThreePC(const CompressorPtr& compressor, const Config& config);

  std::string spec() const override;
  size_t parts() const override;
  std::vector<CompressorPtr> codecs(size_t part) const override;
  bool has_fixed_size(bool first) const override;
  bool may_send_whole(bool first) const override {
    return config_.variant == 1 || EstimateReceiver::may_send_whole(first);
  }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const override;

 private:
  bool send_around_previous(ConstView x, View y, const StepKey& key, Parts& out) const;
  bool send_two(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const;
  bool send_or_restart(ConstView x, View h, View y, const StepKey& key, Parts& out) const;

  CompressorPtr written_;
  Config config_;
  CompressorPtr second_;  // with its open choices made
};

}  // namespace tsq
