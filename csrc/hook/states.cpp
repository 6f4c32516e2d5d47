#include "hook/states.h"

#include <algorithm>

namespace tsq {

const char* name_of(Side side) {
  static constexpr const char* kNames[kSides] = {"worker", "received", "owner", "delivered"};
  return kNames[static_cast<size_t>(side)];
}

States::States(const std::vector<Parameter>& parameters, ExchangeKind exchange, uint32_t rank, uint32_t world_size)
    : slots_(parameters.size()), owed_(parameters.size()), progress_(parameters.size()) {
  const bool sharded = exchange == ExchangeKind::kSharded;
  for (uint32_t id = 0; id < parameters.size(); ++id) {
    const Parameter& p = parameters[id];
    shapes_.emplace_back(p.numel, state_dtype(p.dtype));
    const Range own = owned_range(p.numel, p.granularity(), id, rank, world_size), whole{0, p.numel};
    const auto make = [&](Side side, const std::vector<std::string>& names, const Range& range, bool cut) {
      Slots& slots = slots_[id][static_cast<size_t>(side)];
      slots.names = names;
      slots.cut = cut;
      slots.begin = range.begin;
      slots.numel = range.size();
      for (size_t i = 0; i < names.size(); ++i) {
        slots.buffers.emplace_back(range.size(), state_dtype(p.dtype));
        slots.views.push_back(slots.buffers.back().view());
      }
    };
    if (exchange == ExchangeKind::kDense) continue;
    make(Side::kWorker, p.up->state_names(), whole, false);
    make(Side::kReceived, p.up->receiver_names(), sharded ? own : whole, sharded);
    if (!sharded) continue;
    make(Side::kOwner, p.down->state_names(), own, true);
    make(Side::kDelivered, p.down->receiver_names(), whole, false);
  }
}

std::vector<View> States::of(Side side, const Piece& piece) const {
  const Slots& s = slots(side, piece.parameter);
  std::vector<View> views;
  for (const View& view : s.views) views.push_back(view.slice(piece.begin - s.begin, piece.numel));
  return views;
}

std::vector<StateRef> States::of_side(Side side, uint32_t parameter) const {
  const Slots& s = slots(side, parameter);
  std::vector<StateRef> refs;
  for (size_t i = 0; i < s.views.size(); ++i) refs.push_back({parameter, side, s.names[i], s.begin, s.views[i]});
  if (side == Side::kWorker && owed(parameter).numel > 0) refs.push_back({parameter, side, kOwed, 0, owed(parameter)});
  return refs;
}

View States::owe(uint32_t parameter) {
  const auto& [numel, dtype] = shapes_[parameter];
  if (owed(parameter).numel == 0) owed_[parameter] = Buffer(numel, dtype);
  return owed(parameter);
}

std::vector<StateRef> States::all(bool with_empty) const {
  std::vector<StateRef> refs;
  for (uint32_t id = 0; id < slots_.size(); ++id)
    for (int side = 0; side < kSides; ++side)
      for (const StateRef& ref : of_side(static_cast<Side>(side), id))
        if (with_empty || ref.view.numel > 0) refs.push_back(ref);
  return refs;
}

bool States::same_worker_vectors(const States& other, uint32_t parameter) const {
  const auto has_shift = [&](const States& s) {
    const auto& names = s.names(Side::kWorker, parameter);
    return std::find(names.begin(), names.end(), "shift") != names.end();
  };
  return has_shift(*this) == has_shift(other);
}

Range States::range(Side side, uint32_t parameter) const {
  const Slots& s = slots(side, parameter);
  return {s.begin, s.begin + s.numel};
}

size_t States::bytes() const {
  size_t total = 0;
  for (const StateRef& ref : all()) total += ref.view.numel * size_of(ref.view.dtype);
  return total;
}

}  // namespace tsq
