// MARINA(c, p): with a coin that all ranks share, the gradient itself with probability p, else c(x - y), which the
// receiver adds to its estimate; y is the previous gradient. The senders keep no shift. A = p, B = (1-p) omega / n, for
// the mean's error. Source: Gorbunov, Burlachenko, Li, Richtarik 2021. docs/algorithms.md.
#pragma once

#include "mechanisms/estimate.h"

namespace tsq {

class Marina final : public EstimateReceiver {
 public:
  /// Throws ArgumentError unless the compressor is unbiased and p in (0, 1].
  Marina(const CompressorPtr& compressor, double p);

  std::string spec() const override;
  std::vector<CompressorPtr> codecs(size_t) const override { return {codec(), std::make_shared<Identity>()}; }
  bool may_send_whole(bool) const override { return true; }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const override;

 private:
  bool marked_keep_their_share() const override { return true; }

  CompressorPtr written_;
  double p_;
};

}  // namespace tsq
