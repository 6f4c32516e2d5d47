#include "mechanisms/marina.h"

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/vectors.h"

namespace tsq {

Marina::Marina(const CompressorPtr& compressor, double p)
    : EstimateReceiver(compressor->as_unbiased(), {"gradient"}, Init::kDense), written_(compressor), p_(p) {
  if (!this->compressor().class_of(1 << 16).omega)
    throw ArgumentError(concat("MARINA: compressor: expected an unbiased one, got ", compressor->spec()));
  if (!(p > 0 && p <= 1)) throw ArgumentError(concat("MARINA: p: expected in (0, 1], got ", p));
}

std::string Marina::spec() const { return "MARINA(" + written_->spec() + ", p=" + number_text(p_) + ")"; }

bool Marina::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View& y = state[0];
  const bool restart = key.first || shared_coin(key.encode, p_);
  if (restart)
    send_whole(x, key, out);
  else if (!send_difference(compressor(), x, y, key.encode, out))
    return false;
  assign(y, x);
  out.set_level(restart);
  return true;
}

std::optional<ThreePoint> Marina::three_point(size_t n, uint32_t world_size) const {
  return ThreePoint{p_, (1 - p_) * *compressor().class_of(n, world_size).omega / world_size};
}

}  // namespace tsq
