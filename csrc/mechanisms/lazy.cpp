#include "mechanisms/lazy.h"

#include <algorithm>

#include "common/error.h"
#include "common/expression.h"
#include "compressors/deliver.h"
#include "mechanisms/survey.h"

namespace tsq {

Lazy::Lazy(const CompressorPtr& compressor, double zeta, Init init)
    : EstimateReceiver(compressor ? compressor->as_contractive() : std::make_shared<Identity>(), {"shift", "gradient"},
                       init),
      written_(compressor),
      sparse_(dynamic_cast<const TopK*>(codec().get())),
      zeta_(zeta) {
  if (!(zeta >= 0))
    throw ArgumentError(concat(compressor ? "CLAG" : "LAG", ": zeta: expected a number of at least 0, got ", zeta));
}

std::string Lazy::spec() const {
  const std::string arguments = "zeta=" + number_text(zeta_) + init_text() + ")";
  return written_ ? "CLAG(" + written_->spec() + ", " + arguments : "LAG(" + arguments;
}

bool Lazy::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  if (!key.first || !starts_dense())
    return with_element(
        x.dtype, [&](auto element) { return send_if_far<typename decltype(element)::State>(x, state, key, out); });
  if (!passes(x, state, key)) return false;
  for (const View& v : state) assign(v, x);
  return send_whole(x, key, out);
}

template <class S>
bool Lazy::send_if_far(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View &h = state[0], &y = state[1];
  // Without a previous gradient the trigger has nothing to compare with: the first message is sent.
  const auto far = [&](const auto& d) { return key.first || d.to_shift > zeta_ * d.to_previous; };
  thread_local Selection<S> kept;  // reused: as large as the largest slice needs
  size_t largest = 0;
  if (sparse_ && !key.encode.chooser && selects_in_survey(x.numel) && far(Forecast(x, h, y).distance()))
    largest = sparse_->target(x.numel);
  const Survey seen = survey(x, h, y, largest, &kept);
  if (!passes(x, state, key, seen.ordinary)) return false;
  const bool fires = far(seen.distance);
  if (!fires)
    out.skip();
  else if (seen.selected)
    send_selected(*sparse_, x, h, key.encode, kept, out);
  else if (!send_increment(compressor(), x, h, key.encode, out))
    return false;
  out.set_level(fires);
  deliver(y, x);
  return true;
}

std::optional<ThreePoint> Lazy::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha) return std::nullopt;
  return ThreePoint{contraction(*alpha), std::max((1 - *alpha) / contraction(*alpha), zeta_)};
}

}  // namespace tsq
