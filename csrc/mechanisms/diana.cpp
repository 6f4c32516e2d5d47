#include "mechanisms/diana.h"

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/vectors.h"

namespace tsq {

Diana::Diana(const CompressorPtr& compressor, std::optional<double> alpha, std::string kind)
    : EstimateReceiver(compressor->as_unbiased(), {"shift"}, Init::kZero),
      written_(compressor),
      alpha_(alpha),
      kind_(std::move(kind)) {
  if (!this->compressor().class_of(1 << 16).omega)
    throw ArgumentError(concat("DIANA: compressor: expected an unbiased one, got ", compressor->spec()));
  if (alpha && !(*alpha > 0 && *alpha <= 1))
    throw ArgumentError(concat("DIANA: alpha: expected in (0, 1], got ", *alpha));
}

std::string Diana::spec() const {
  return "DIANA(" + written_->spec() + (alpha_ ? ", alpha=" + number_text(*alpha_) : "") + smoothness_text(kind_) + ")";
}

double Diana::alpha(size_t n, uint32_t world_size) const {
  return alpha_ ? *alpha_ : 1.0 / (1.0 + *compressor().class_of(n, world_size).omega);
}

bool Diana::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View& h = state[0];
  return send_difference(compressor(), x, h, key.encode, out, h, alpha(x.numel, key.encode.world_size));
}

void Diana::receive(std::span<const Arrived> from, std::span<const View> state, const StepKey&, View out) const {
  const View& h = state[0];
  const ScratchVector mean(out.numel, h.dtype), estimate(out.numel, h.dtype);
  clear(mean.view());
  for (const Arrived& a : from)
    if (!a.non_finite())
      reader_of(a.sections[0], codec())
          ->decode_add(a.payloads[0], out.dtype, 1.0 / static_cast<double>(from.size()), mean.view());
  if (!any_non_finite(from)) {
    assign(estimate.view(), h);
    add(estimate.view(), mean.view());
    assign(out, estimate.view());
  }
  scale(mean.view(), alpha(out.numel, static_cast<uint32_t>(from.size())));
  add(h, mean.view());
}

}  // namespace tsq
