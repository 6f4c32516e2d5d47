#include "mechanisms/lazy.h"

#include <algorithm>

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/vectors.h"

namespace tsq {

Lazy::Lazy(const CompressorPtr& compressor, double zeta, Init init)
    : EstimateReceiver(compressor ? compressor->as_contractive() : std::make_shared<Identity>(), {"shift", "gradient"},
                       init),
      written_(compressor),
      zeta_(zeta) {
  if (!(zeta >= 0))
    throw ArgumentError(concat(compressor ? "CLAG" : "LAG", ": zeta: expected a number of at least 0, got ", zeta));
}

std::string Lazy::spec() const {
  const std::string arguments = "zeta=" + number_text(zeta_) + init_text() + ")";
  return written_ ? "CLAG(" + written_->spec() + ", " + arguments : "LAG(" + arguments;
}

bool Lazy::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View &h = state[0], &y = state[1];
  if (key.first && starts_dense()) {
    assign(h, x);
    send_whole(x, key, out);
  } else {
    // Without a previous gradient the trigger has nothing to compare with: the first message is sent.
    bool fires = key.first;
    if (!fires) {
      const Distances distance = squared_distances(x, h, y);
      fires = distance.to_shift > zeta_ * distance.to_previous;
    }
    if (!fires)
      out.skip();
    else if (!send_increment(compressor(), x, h, key.encode, out))
      return false;
    out.set_level(fires);
  }
  assign(y, x);
  return true;
}

std::optional<ThreePoint> Lazy::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha) return std::nullopt;
  return ThreePoint{contraction(*alpha), std::max((1 - *alpha) / contraction(*alpha), zeta_)};
}

}  // namespace tsq
