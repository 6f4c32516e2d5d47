// Direct and DIANA for losses of known smoothness L_i: DCGD+ and DIANA+ (Safaryan, Hanzely, Richtarik, 2021; Wang,
// Safaryan, Richtarik, 2022, algorithms 1 and 2; docs/smoothness.md). Made by with_smoothness of those two; the specs
// stay.
//
//   DCGD+   m_i = C_i(L_i^(+1/2) grad_i); estimate = mean L_i^(1/2) m_i
//   DIANA+  m_i = C_i(L_i^(+1/2) (grad_i - h_i)), h_i = h_i + alpha_i L_i^(1/2) m_i; estimate = h + mean L_i^(1/2) m_i,
//           h = h + mean alpha_i L_i^(1/2) m_i; alpha_i = 1 / (1 + omega_i), each rank's own
//
// float32 and float64. With one common smoothness DCGD+'s receiver is linear: the messages are added first.
#pragma once

#include "mechanisms/estimate.h"
#include "mechanisms/whitening.h"

namespace tsq {

class WhitenedDirect final : public Mechanism {
 public:
  WhitenedDirect(std::string spec, CompressorPtr compressor, Whitening whitening)
      : spec_(std::move(spec)), compressor_(std::move(compressor)), whitening_(std::move(whitening)) {}

  std::string spec() const override { return spec_; }
  const Compressor& compressor() const override { return *compressor_; }
  std::vector<CompressorPtr> codecs(size_t) const override { return {compressor_}; }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  bool retract(const Arrived&, ConstView, std::span<const View>) const override { return true; }
  void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key, View out) const override;

 private:
  std::string spec_;
  CompressorPtr compressor_;
  Whitening whitening_;
};

class WhitenedDiana final : public EstimateReceiver {
 public:
  WhitenedDiana(std::string spec, const CompressorPtr& compressor, std::optional<double> alpha, Whitening whitening)
      : EstimateReceiver(compressor, {"shift"}, Init::kZero),
        spec_(std::move(spec)),
        alpha_(alpha),
        whitening_(std::move(whitening)) {}

  std::string spec() const override { return spec_; }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key, View out) const override;

 private:
  double alpha(const Whitening::Side& side, uint32_t world_size) const;

  std::string spec_;
  std::optional<double> alpha_;
  Whitening whitening_;
};

}  // namespace tsq
