// What the averager does for its policy: asks it how a bucket travels, and measures.
#include "common/error.h"
#include "hook/averager.h"

namespace tsq {

void Averager::make_steering() {
  if (!config_.never_slower) return;
  check_ladders(parameters_);
  if (exchange_->size() == 1) return;  // nothing to send
  NeverSlowerConfig policy = *config_.never_slower;
  policy.world_size = exchange_->size();
  policy.levels = 1;
  bool stateless = true;
  for (const Parameter& p : parameters_) {
    policy.levels = std::max(policy.levels, 1 + p.coarser.size());
    stateless = stateless && !p.up->keeps_pace() && !p.down->keeps_pace();
  }
  policy.kinds.clear();
  if (config_.exchange != ExchangeKind::kDense) policy.kinds.push_back(config_.exchange);
  if (config_.exchange == ExchangeKind::kSharded && stateless) policy.kinds.push_back(ExchangeKind::kAllGather);
  steering_ = std::make_unique<Steering>(policy, *exchange_, config_.clock);
}

void Averager::follow(std::unique_ptr<Planner> planner) {
  for (const Parameter& p : parameters_)
    if (!p.coarser.empty())
      throw ArgumentError(concat("smoothness: expected no ladder, whose levels have widths of their own, got ",
                                 1 + p.coarser.size(), " levels for ", p.name));
  planner_ = std::move(planner);
}

void Averager::set_enabled(bool enabled) {
  if (steering_ && enabled != enabled_) steering_->restart();
  enabled_ = enabled;
}

std::optional<PolicyReport> Averager::policy() const {
  if (!steering_) return std::nullopt;
  return steering_->report();
}

void Averager::average(std::span<const uint32_t> ids, View buffer, const BucketPlace& place) {
  const Layout& layout = checked_layout_of(ids, buffer);
  const bool always_dense =
      !enabled_ || all_identity_ || config_.exchange == ExchangeKind::kDense || exchange_->size() == 1;
  choice_ = {always_dense ? ExchangeKind::kDense : config_.exchange, 0};
  if (always_dense) return average_as_chosen(layout, buffer);
  if (planner_ && planner_->begin(layout.ids, parameters_)) recorder_.plan(*planner_);
  if (steering_)
    average_steered(layout, buffer, place);
  else
    average_as_chosen(layout, buffer);
  if (planner_) planner_->observe(layout, buffer);
}

void Averager::average_steered(const Layout& layout, View buffer, const BucketPlace& place) {
  const std::span<const uint32_t> ids = layout.ids;
  auto sizes = sizes_.find(&layout);
  if (sizes == sizes_.end()) sizes = sizes_.emplace(&layout, sizes_of(layout, buffer.dtype)).first;
  choice_ = steering_->next(ids, sizes->second, place.ready);
  owe_residuals(layout, buffer);
  const auto [codec, exchanging] = recorder_.seconds();
  const uint64_t bytes = exchange_->traffic().wire_bytes;
  average_as_chosen(layout, buffer);
  BucketTiming timing;
  timing.codec = static_cast<float>(recorder_.seconds().first - codec);
  timing.exchange = static_cast<float>(recorder_.seconds().second - exchanging);
  timing.bytes = static_cast<float>(exchange_->traffic().wire_bytes - bytes);
  if (steering_->wants_error() && choice_.kind != ExchangeKind::kDense) {
    const auto [wanted, left] = recorder_.compression(ids);
    timing.wanted = static_cast<float>(wanted);
    timing.left = static_cast<float>(left);
  }
  steering_->done(place.ready, timing, place.last);
}

/// Counters so far.
Tuner::Bucket Averager::spent() const {
  if (!tuner_.active()) return {};
  const double world = exchange_->size();
  // Sharded, of every byte of a message (W - 1) / W leaves this rank; all_gather: W - 1.
  const double per_message = choice_.kind == ExchangeKind::kSharded ? world / (world - 1) : 1 / (world - 1);
  return {transport_.agreed_bytes(), static_cast<double>(exchange_->traffic().wire_bytes) * per_message,
          recorder_.seconds().second};
}

void Averager::learn(const Tuner::Bucket& before, ConstView mean) {
  const Tuner::Bucket now = spent();
  tuner_.learn({now.agreed_bytes - before.agreed_bytes, now.message_bytes - before.message_bytes,
                now.exchange_seconds - before.exchange_seconds},
               mean);
}

BucketSizes Averager::sizes_of(const Layout& layout, DType dtype) const {
  const double others = exchange_->size() - 1, part = 1.0 / exchange_->size();
  BucketSizes out;
  out.numel = layout.numel;
  out.in_parcels = in_parcels(layout);
  out.dense_bytes = static_cast<double>(ring_bytes(layout.numel * size_of(dtype), exchange_->size()));
  for (size_t level = 0; level < steering_->config().levels; ++level) {
    const auto bytes = [&](bool owner) {
      double total = static_cast<double>(wire::overhead(owner ? layout.whole.down_sections : layout.whole.up_sections));
      for (const Piece& piece : layout.whole.pieces)
        total += parameters_[piece.parameter].mechanism(level, owner).expected_bits(piece.numel, dtype) / 8;
      return total;
    };
    out.all_gather_bytes.push_back(others * bytes(false));
    out.sharded_bytes.push_back(others * part * (bytes(false) + bytes(true)));
  }
  return out;
}

}  // namespace tsq
