#include "mechanisms/ef21.h"

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/survey.h"

namespace tsq {

EF21::EF21(const CompressorPtr& compressor, const Config& config)
    : EstimateReceiver(
          compressor->as_contractive(),
          config.momentum ? std::vector<std::string>{"shift", "momentum"} : std::vector<std::string>{"shift"},
          config.init),
      written_(compressor),
      sparse_(dynamic_cast<const TopK*>(codec().get())),
      config_(config) {
  if (config.momentum && !(*config.momentum > 0 && *config.momentum <= 1))
    throw ArgumentError(concat("EF21: momentum: expected a number above 0, at most 1, got ", *config.momentum));
}

std::string EF21::spec() const {
  std::string out = "EF21(" + written_->spec();
  if (config_.momentum) out += ", momentum=" + number_text(*config_.momentum);
  return out + init_text() + ")";
}

bool EF21::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  if (!config_.momentum) {
    if (!key.first || init() == Init::kZero) return send_shifted(x, state, key, out);
    if (!passes(x, state, key)) return false;
    assign(state[0], x);
    return send_whole(x, key, out);
  }
  // v = (1 - eta) v + eta x, at first x itself; what is compressed is v in the gradient's dtype.
  const ScratchVector next(x.numel, state[1].dtype), target(x.numel, x.dtype);
  assign(next.view(), key.first ? x : ConstView(state[1]));
  if (!key.first) move_towards(next.view(), x, *config_.momentum);
  assign(target.view(), next.view());
  if (key.first && init() == Init::kDense) {
    assign(state[0], target.view());
    send_whole(target.view(), key, out);
  } else if (!send_increment(compressor(), target.view(), state[0], key.encode, out)) {
    return false;
  }
  assign(state[1], next.view());
  return true;
}

bool EF21::send_shifted(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View& h = state[0];
  if (!sparse_ || key.inspected || key.encode.chooser || !selects_in_survey(x.numel))
    return passes(x, state, key) && send_increment(compressor(), x, h, key.encode, out);
  return with_element(x.dtype, [&](auto element) {
    thread_local Selection<typename decltype(element)::State> kept;  // reused: as large as the largest slice needs
    const Survey seen = survey(x, h, sparse_->target(x.numel), &kept);
    if (!passes(x, state, key, seen.ordinary) || !seen.selected) return false;
    send_selected(*sparse_, x, h, key.encode, kept, out);
    return true;
  });
}

std::optional<ThreePoint> EF21::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha || config_.momentum) return std::nullopt;
  return ThreePoint{contraction(*alpha), (1 - *alpha) / contraction(*alpha)};
}

}  // namespace tsq
