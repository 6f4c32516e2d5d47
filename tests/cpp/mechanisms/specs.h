// Every mechanism with an estimate, and gradients that make triggers fire in some steps and not in others.
#pragma once

#include "mechanisms/endpoints.h"

namespace tsq::test {

inline constexpr const char* kEstimating[] = {
    "EF21(TopK(ratio=0.1))",
    "EF21(Quantizer(bits=4))",
    "EF21(Quantizer(bits=3), init='zero')",
    "EF21(TopK(ratio=0.1), momentum=0.3)",
    "EF21(Identity())",
    "LAG(zeta=1.5)",
    "LAG(zeta=4.0, init='zero')",
    "CLAG(TopK(ratio=0.1), zeta=4.0)",
    "CLAG(Quantizer(bits=4), zeta=1.0, init='zero')",
    "AdaCGD([TopK(k=1), TopK(ratio=0.1), TopK(ratio=0.5)])",
    "AdaCGD([Quantizer(bits=2), TopK(ratio=0.1), Identity()], zeta=2.0, init='zero')",
    "AdaCGD([TopK(k=20), TopK(ratio=0.001)])",  // here the first level is the wider one
    "ThreePC(TopK(ratio=0.1), variant=1)",
    "ThreePC(TopK(ratio=0.1), variant=2, second=Quantizer(bits=4))",
    "ThreePC(TopK(ratio=0.1), variant=3, second=LAG(zeta=2.0))",
    "ThreePC(Quantizer(bits=4), variant=3, second=CLAG(TopK(ratio=0.1), zeta=2.0, init='zero'), init='zero')",
    "ThreePC(Quantizer(bits=4), variant=4, second=TopK(ratio=0.1))",
    "ThreePC(TopK(ratio=0.1), variant=5, p=0.3)",
    "Ada3PC([LAG(zeta=0.5), EF21(TopK(k=3)), ThreePC(Quantizer(bits=4), variant=4, second=TopK(k=1))],"
    " [Near(zeta=0.5), Accurate(zeta=1.0)])",
    "Ada3PC([CLAG(Sign(), zeta=1.0, init='zero'), EF21(TopK(ratio=0.1), init='zero')], [Far(zeta=2.0)], init='zero')",
    "DIANA(Quantizer(bits=4))",
    "DIANA(Ternary(), alpha=0.1)",
    "MARINA(Quantizer(bits=4), p=0.3)",
    "Bidirectional(EF21(TopK(ratio=0.1)), EF21(Quantizer(bits=4)))",
    "Bidirectional(CLAG(TopK(ratio=0.1), zeta=1.0), LAG(zeta=1.0))",
    "Bidirectional(DIANA(Quantizer(bits=4)), ErrorFeedback(Quantizer(bits=4)))",
};

/// The gradient of `rank` in `step`: it drifts, much or little by turns, and rests in every eighth step.
inline Vector drifting(DType dtype, size_t n, uint64_t rank, uint64_t step) {
  Vector x = random_vector(dtype, n, 77 + rank);
  for (uint64_t s = 1; s <= step; ++s) {
    const Vector noise = random_vector(dtype, n, 1000 * s + rank);
    const double size = s % 8 == 7 ? 0.0 : s % 3 == 0 ? 0.5 : 0.01;
    for (size_t i = 0; i < n; ++i) x.set(i, x[i] + size * noise[i]);
  }
  return x;
}

/// The payloads of a message, its parts in a row.
inline Octets payload_of(const Octets& message) {
  Octets out;
  for (const Bytes& part : wire::parse(message).payloads) out.insert(out.end(), part.begin(), part.end());
  return out;
}

/// Mean of the senders' shifts, in double. Empty if the mechanism keeps none.
inline std::vector<double> mean_shift(Endpoints& ends) {
  std::vector<double> mean;
  for (Sender& sender : ends.senders) {
    const auto& names = sender.state().names();
    const auto at = std::ranges::find(names, "shift");
    if (at == names.end()) return {};
    const View h = sender.state(static_cast<size_t>(at - names.begin()));
    mean.resize(h.numel);
    for (size_t i = 0; i < h.numel; ++i) mean[i] += get(h, i) / static_cast<double>(ends.senders.size());
  }
  return mean;
}

/// The largest |estimate - mean of shifts|: 0 but for rounding.
inline double disagreement(Endpoints& ends) {
  const std::vector<double> mean = mean_shift(ends);
  const auto& state = ends.receiver.state();
  double worst = 0;
  for (size_t i = 0; i < mean.size(); ++i) worst = std::max(worst, std::abs(mean[i] - get(state.views()[0], i)));
  return worst;
}

}  // namespace tsq::test
