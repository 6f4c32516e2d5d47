#include "hook/rotation.h"

#include <algorithm>

#include "common/error.h"

namespace tsq {

Rotation::Rotation(const RotationConfig& config, const Averager& averager, std::span<const MatrixShape> shapes)
    : config_(config), index_(shapes.size(), -1), seen_(shapes.size()) {
  if (averager.config().exchange == ExchangeKind::kSharded)
    throw ArgumentError(
        "smoothness: Running('kronecker') expects exchange='all_gather' (the sharded one cuts matrices), got "
        "'sharded'");
  if (config.interval == 0) throw ArgumentError("smoothness: interval: expected at least 1 step, got 0");
  if (!(config.decay >= 0 && config.decay < 1))
    throw ArgumentError(concat("smoothness: decay: expected a number in [0, 1), got ", config.decay));
  for (uint32_t id = 0; id < shapes.size(); ++id) {
    const Parameter& p = averager.parameters()[id];
    const bool raw = p.up->compressor().format().codec == wire::Codec::kRaw;
    KroneckerBasis basis(shapes[id].rows, shapes[id].columns, config.largest_side);
    if (raw || p.dtype != state_dtype(p.dtype) || basis.numel() != p.numel ||
        !(basis.has_rows() || basis.has_columns()))
      continue;
    index_[id] = static_cast<int>(bases_.size());
    ids_.push_back(id);
    bases_.push_back(std::move(basis));
  }
  if (bases_.empty())
    throw ArgumentError(
        concat("smoothness: Running('kronecker') expects a compressed float32 or float64 matrix with a side of 2 to ",
               config.largest_side, ", and no parameter is one"));
}

template <class F>
void Rotation::each(const Averager& averager, std::span<const uint32_t> ids, View buffer, F f) {
  size_t at = 0;
  for (const uint32_t id : ids) {
    const size_t numel = averager.parameters()[id].numel;
    if (index_[id] >= 0) f(bases_[static_cast<size_t>(index_[id])], buffer.slice(at, numel));
    at += numel;
  }
}

void Rotation::average(Averager& averager, std::span<const uint32_t> ids, View buffer) {
  size_t numel = 0;
  for (const uint32_t id : ids) {
    if (id >= index_.size()) return averager.average(ids, buffer);  // its error
    numel += averager.parameters()[id].numel;
  }
  const bool typed =
      std::all_of(ids.begin(), ids.end(), [&](uint32_t id) { return averager.parameters()[id].dtype == buffer.dtype; });
  if (numel != buffer.numel || !typed) return averager.average(ids, buffer);  // likewise
  begin(averager, ids);
  each(averager, ids, buffer, [](const KroneckerBasis& basis, View x) { basis.enter(x); });
  const auto leave = [&] { each(averager, ids, buffer, [](const KroneckerBasis& basis, View x) { basis.leave(x); }); };
  try {
    averager.average(ids, buffer);
  } catch (...) {
    leave();
    throw;
  }
  leave();
  each(averager, ids, buffer, [&](KroneckerBasis& basis, View x) { basis.observe(x, config_.decay); });
}

void Rotation::begin(Averager& averager, std::span<const uint32_t> ids) {
  const bool starts = std::any_of(ids.begin(), ids.end(), [&](uint32_t id) { return seen_[id]; });
  if (starts) {
    seen_.assign(seen_.size(), false);
    ++steps_;
  }
  for (const uint32_t id : ids) seen_[id] = true;
  if (starts && steps_ >= config_.warmup && (steps_ - config_.warmup) % config_.interval == 0) refresh(averager);
}

void Rotation::refresh(Averager& averager) {
  const std::vector<StateRef> states = averager.states().all();
  const auto each_state = [&](auto f) {
    for (const StateRef& ref : states)
      if (index_[ref.parameter] >= 0) f(bases_[static_cast<size_t>(index_[ref.parameter])], ref.view);
  };
  each_state([](const KroneckerBasis& basis, View x) { basis.leave(x); });
  for (KroneckerBasis& basis : bases_) basis.refresh(basis.turned() ? kIterations : kFirstIterations);
  each_state([](const KroneckerBasis& basis, View x) { basis.enter(x); });
}

void Rotation::scale(double factor) {
  for (KroneckerBasis& basis : bases_) basis.scale(factor);
}

Planner::Saved Rotation::state() const {
  Planner::Saved saved{steps_, {}};
  for (size_t i = 0; i < bases_.size(); ++i) saved.parameters.emplace_back(ids_[i], bases_[i].state());
  return saved;
}

void Rotation::load(const Planner::Saved& saved) {
  if (saved.parameters.size() != bases_.size())
    throw ArgumentError(
        concat("state_dict: running: expected ", bases_.size(), " parameters, got ", saved.parameters.size()));
  std::vector<KroneckerBasis> bases = bases_;
  for (const auto& [id, values] : saved.parameters) {
    if (id >= index_.size() || index_[id] < 0)
      throw ArgumentError(concat("state_dict: running: expected turned parameters, got number ", id));
    bases[static_cast<size_t>(index_[id])].load(values);
  }
  bases_ = std::move(bases);
  steps_ = saved.steps;
  seen_.assign(seen_.size(), true);  // the next bucket begins a step, as it would have where this was saved
}

}  // namespace tsq
