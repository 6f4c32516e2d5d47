#include "hook/recorder.h"

#include "mechanisms/vectors.h"

namespace tsq {

Recorder::Timer::~Timer() {
  const double spent = recorder_.clock_() - start_;
  const std::lock_guard lock(recorder_.mutex_);
  recorder_.stats_.*total_ += spent;
}

AveragerStats Recorder::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

std::vector<Watched> Recorder::watched() const {
  const std::lock_guard lock(mutex_);
  return watched_;
}

std::pair<double, double> Recorder::seconds() const {
  const std::lock_guard lock(mutex_);
  return {stats_.encode_seconds + stats_.decode_seconds, stats_.exchange_seconds + hidden_seconds_};
}

std::pair<double, double> Recorder::compression(std::span<const uint32_t> ids) const {
  const std::lock_guard lock(mutex_);
  std::pair<double, double> out{0, 0};
  for (const uint32_t id : ids) out.first += watched_[id].wanted, out.second += watched_[id].left;
  return out;
}

void Recorder::bucket(bool dense, uint64_t dense_bytes) {
  const std::lock_guard lock(mutex_);
  ++stats_.calls;
  stats_.dense_calls += dense;
  stats_.dense_bytes += dense_bytes;
}

void Recorder::hidden(double seconds) {
  const std::lock_guard lock(mutex_);
  hidden_seconds_ += seconds;
}

void Recorder::non_finite() {
  const std::lock_guard lock(mutex_);
  ++stats_.non_finite;
}

void Recorder::state_bytes(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  stats_.state_bytes = bytes;
}

void Recorder::buffer_bytes(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  stats_.buffer_bytes = bytes;
}

void Recorder::sent(const Piece& piece, bool owner, uint64_t bytes, int level) {
  const std::lock_guard lock(mutex_);
  ++stats_.sent;
  stats_.skipped += bytes == 0;
  if (level >= 0) ++stats_.levels[level];
  Watched& w = watched_[piece.parameter];
  (owner ? w.down_bytes : w.up_bytes) += bytes;
  if (owner) return;
  ++w.sent;
  w.skipped += bytes == 0;
  if (level >= 0) ++w.levels[level];
}

void Recorder::plan(const Planner& planner) {
  const std::lock_guard lock(mutex_);
  for (uint32_t id = 0; id < watched_.size(); ++id) {
    const Planner::Planned planned = planner.planned(id).value_or(Planner::Planned());
    watched_[id].bits = planned.bits;
    watched_[id].weight = planned.weight;
  }
}

void Recorder::watch(const Piece& piece, ConstView x, const States& states, bool before, bool now) {
  if (!now && states.progress(piece.parameter).steps % kWatchInterval != 0) return;
  const auto& names = states.names(Side::kWorker, piece.parameter);
  if (names.empty()) return;
  const View state = states.of(Side::kWorker, piece)[0];
  const ScratchVector sum(x.numel, state.dtype);
  double size = 0;
  if (names[0] == "shift") {
    size = squared_distance(x, state);
  } else if (names[0] == "residual") {
    assign(sum.view(), state);
    if (before) add_any(sum.view(), x);
    size = squared_norm(sum.view());
  }
  const double gradient = before ? squared_norm(x) : 0;
  const std::lock_guard lock(mutex_);
  Watched& w = watched_[piece.parameter];
  if (before && piece.begin == 0) w.gradient = w.wanted = w.left = 0;
  if (before) w.gradient += gradient;
  (before ? w.wanted : w.left) += size;
}

}  // namespace tsq
