#include "mechanisms/three_pc.h"

#include <algorithm>

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

std::vector<std::string> state_names_of(const ThreePC::Config& config) {
  switch (config.variant) {
    case 1:
      return {"gradient"};
    case 3:
      return config.inner ? config.inner->state_names() : std::vector<std::string>{};
    case 4:
      return {"shift"};
    default:
      return {"shift", "gradient"};
  }
}

void check(const ThreePC::Config& c) {
  const auto fail = [&](const char* what) {
    throw ArgumentError(concat("ThreePC: variant ", c.variant, ": expected ", what));
  };
  if (c.variant < 1 || c.variant > 5) throw ArgumentError(concat("ThreePC: variant: expected 1 to 5, got ", c.variant));
  if ((c.variant == 2 || c.variant == 4) != bool(c.second))
    fail(c.second ? "no second compressor" : "second= with a compressor");
  if ((c.variant == 3) != bool(c.inner)) fail(c.inner ? "no inner mechanism" : "second= with a mechanism");
  if ((c.variant == 5) != c.p.has_value()) fail(c.p ? "no p" : "p= with a probability");
  if (c.p && !(*c.p > 0 && *c.p <= 1)) throw ArgumentError(concat("ThreePC: p: expected in (0, 1], got ", *c.p));
  if (c.variant == 2 && !c.second->as_unbiased()->class_of(1 << 16).omega)
    throw ArgumentError(concat("ThreePC: second: expected an unbiased compressor, got ", c.second->spec()));
}

}  // namespace

ThreePC::ThreePC(const CompressorPtr& compressor, const Config& config)
    : EstimateReceiver(compressor->as_contractive(), state_names_of(config), config.init),
      written_(compressor),
      config_(config) {
  check(config);
  if (config.inner) check_part("ThreePC: variant 3: second", *config.inner);
  if (config.second) second_ = config.variant == 2 ? config.second->as_unbiased() : config.second->as_contractive();
}

std::string ThreePC::spec() const {
  std::string out = concat("ThreePC(", written_->spec(), ", variant=", config_.variant);
  if (config_.second) out += ", second=" + config_.second->spec();
  if (config_.inner) out += ", second=" + config_.inner->spec();
  if (config_.p) out += ", p=" + number_text(*config_.p);
  return out + init_text() + ")";
}

size_t ThreePC::parts() const {
  if (config_.inner) return config_.inner->parts() + 1;
  return config_.variant == 5 ? 1 : 2;
}

std::vector<CompressorPtr> ThreePC::codecs(size_t part) const {
  if (part + 1 == parts()) {
    if (config_.variant == 5) return {codec(), std::make_shared<Identity>()};
    return {codec()};
  }
  if (config_.inner) return config_.inner->codecs(part);
  return {config_.variant == 1 ? std::make_shared<Identity>() : second_};
}

bool ThreePC::has_fixed_size(bool first) const {
  if (config_.inner && !config_.inner->has_fixed_size(first)) return false;
  return EstimateReceiver::has_fixed_size(first);
}

bool ThreePC::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  if (key.first && starts_dense()) {
    for (size_t i = 0; i < state.size(); ++i) assign(state[i], x);  // both the shift and the previous gradient
    return send_whole(x, key, out);
  }
  if (config_.variant == 1) return send_around_previous(x, state[0], key, out);
  if (config_.variant == 5) return send_or_restart(x, state[0], state[1], key, out);
  return send_two(x, state, key, out);
}

/// Variant 1.
bool ThreePC::send_around_previous(ConstView x, View y, const StepKey& key, Parts& out) const {
  const ScratchVector previous(x.numel, x.dtype);
  assign(previous.view(), y);  // it came from a gradient of this dtype: exact
  const Identity identity;
  out.add(identity.format(), identity.encode(previous.view(), key.encode, out.room()).bytes, /*whole=*/true);
  const Compressor::Encoded sent = compressor().encode_shifted(x, y, out.keyed(key.encode), out.room());
  if (!sent.finite) return false;
  out.add(compressor(), sent);
  assign(y, x);
  return true;
}

/// Variants 2 to 4: b from the second one, then c(x - b).
bool ThreePC::send_two(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View& h = state[0];
  const ScratchVector b(x.numel, h.dtype);
  assign(b.view(), h);
  if (config_.variant == 2) {
    if (!send_difference(*second_, x, state[1], second_key(key.encode), out, b.view())) return false;
  } else if (config_.variant == 4) {
    if (!send_increment(*second_, x, b.view(), second_key(key.encode), out)) return false;
  } else {
    std::vector<View> inner(state.begin(), state.end());
    inner[0] = b.view();
    StepKey inner_key = key;
    inner_key.encode = second_key(key.encode);
    if (!config_.inner->send(x, inner, inner_key, out)) return false;
  }
  if (!send_increment(compressor(), x, b.view(), key.encode, out)) return false;
  assign(h, b.view());
  if (config_.variant == 2) assign(state[1], x);
  return true;
}

/// Variant 5. A restart travels as the increment x - h, so that a receiver that missed a marked rank stays right.
bool ThreePC::send_or_restart(ConstView x, View h, View y, const StepKey& key, Parts& out) const {
  const bool restart = shared_coin(key.encode, *config_.p);
  if (restart) {
    if (!send_increment(Identity(), x, h, key.encode, out)) return false;
  } else if (!send_difference(compressor(), x, y, key.encode, out, h)) {
    return false;
  }
  assign(y, x);
  out.set_level(restart);
  return true;
}

std::optional<ThreePoint> ThreePC::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha) return std::nullopt;
  switch (config_.variant) {
    case 1:
      return ThreePoint{1, 1 - *alpha};
    case 2:
      return ThreePoint{*alpha, (1 - *alpha) * *second_->class_of(n, world_size).omega};
    case 3: {
      const auto inner = config_.inner->three_point(n, world_size);
      if (!inner) return std::nullopt;
      return ThreePoint{1 - (1 - *alpha) * (1 - inner->A), (1 - *alpha) * inner->B};
    }
    case 4: {
      const auto other = second_->class_of(n, world_size).alpha;
      if (!other) return std::nullopt;
      const double left = (1 - *alpha) * (1 - *other);
      return ThreePoint{contraction(1 - left), left / contraction(1 - left)};
    }
    default:
      return ThreePoint{contraction(*config_.p), (1 - *config_.p) * (1 - *alpha) / contraction(*config_.p)};
  }
}

}  // namespace tsq
