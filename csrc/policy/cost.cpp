#include "policy/cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/error.h"

namespace tsq {

namespace {

constexpr double kOneSize = 1e-9;  // below this relative variance, sizes of samples count as one size

void check_term(const char* what, const char* name, double value, bool zero_allowed = true) {
  if (!(std::isfinite(value) && (zero_allowed ? value >= 0 : value > 0)))
    throw ArgumentError(concat(what, ": ", name, ": expected a finite number",
                               zero_allowed ? " of at least 0" : " above 0", ", got ", value));
}

void check_line(const char* what, double c0, double c1) {
  check_term(what, "c0", c0);
  check_term(what, "c1", c1);
  if (c0 == 0 && c1 == 0) throw ArgumentError(concat(what, ": expected c0 or c1 above 0, got zero for both"));
}

}  // namespace

const char* name_of(Unit unit) {
  static constexpr const char* kNames[] = {"bits", "bytes", "seconds"};
  return kNames[static_cast<size_t>(unit)];
}

double EntryCost::operator()(double entries) const {
  if (affine()) return c0 + c1 * entries;
  return c0 + c1 * std::max(1.0, std::ceil((lead + entries) / per_packet));
}

PacketCost::PacketCost(const Config& config) : config_(config) {
  check_term("PacketCost", "payload", config.payload, /*zero_allowed=*/false);
  check_term("PacketCost", "packet", config.packet, /*zero_allowed=*/false);
  check_term("PacketCost", "message", config.message);
}

EntryCost PacketCost::of(const EntryBits& bits) const {
  EntryCost cost{.c0 = config_.message, .c1 = config_.packet};
  cost.per_packet = 8 * config_.payload / bits.entry;
  if (config_.straddle)
    cost.lead = (bits.overhead + bits.scale) / bits.entry;
  else
    cost.per_packet = std::max(1.0, std::floor(cost.per_packet));
  return cost;
}

std::optional<double> PacketCost::of_bytes(double bytes) const {
  return config_.message + config_.packet * std::ceil(bytes / config_.payload);
}

EntryCost LineCost::of(const EntryBits& bits) const {
  return {.c0 = line_.c0 + line_.c1 * (bits.overhead + bits.scale) / 8, .c1 = line_.c1 * bits.entry / 8};
}

AffineCost::AffineCost(double c0, double c1, Unit unit) : c0_(c0), c1_(c1), unit_(unit) {
  check_line("AffineCost", c0, c1);
}

MeasuredCost::MeasuredCost(const Config& config) : config_(config) {
  check_line("MeasuredCost", config.prior.c0, config.prior.c1);
  if (!(config.keep > 0 && config.keep <= 1))
    throw ArgumentError(concat("MeasuredCost: keep: expected in (0, 1], got ", config.keep));
}

// The weighted means and products are kept instead of raw sums: sizes may be large and nearly equal.
void MeasuredCost::observe(double bytes, double seconds) {
  check_term("MeasuredCost", "bytes", bytes);
  check_term("MeasuredCost", "seconds", seconds);
  const std::lock_guard lock(mutex_);
  State& s = state_;
  ++s.samples;
  s.weight = config_.keep * s.weight + 1;
  s.variance *= config_.keep;
  s.covariance *= config_.keep;
  const double from_bytes = bytes - s.mean_bytes, from_seconds = seconds - s.mean_seconds;
  s.mean_bytes += from_bytes / s.weight;
  s.mean_seconds += from_seconds / s.weight;
  s.variance += from_bytes * (bytes - s.mean_bytes);
  s.covariance += from_bytes * (seconds - s.mean_seconds);
}

Line MeasuredCost::fit_locked() const {
  const Line& prior = config_.prior;
  const State& s = state_;
  if (s.samples == 0) return prior;
  if (s.variance <= kOneSize * s.weight * s.mean_bytes * s.mean_bytes) {
    const double scale = s.mean_seconds / (prior.c0 + prior.c1 * s.mean_bytes);
    return std::isfinite(scale) ? Line{prior.c0 * scale, prior.c1 * scale} : Line{s.mean_seconds, 0};
  }
  const double slope = s.covariance / s.variance;
  if (slope <= 0) return {s.mean_seconds, 0};
  const double at_zero = s.mean_seconds - slope * s.mean_bytes;
  if (at_zero >= 0) return {at_zero, slope};
  // Through the origin: the sums of bytes * seconds and of bytes^2.
  return {0, (s.covariance + s.weight * s.mean_bytes * s.mean_seconds) /
                 (s.variance + s.weight * s.mean_bytes * s.mean_bytes)};
}

MeasuredCost::State MeasuredCost::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void MeasuredCost::set_state(const State& s) {
  const std::pair<const char*, double> terms[] = {{"samples", s.samples},
                                                  {"weight", s.weight},
                                                  {"mean_bytes", s.mean_bytes},
                                                  {"mean_seconds", s.mean_seconds},
                                                  {"variance", s.variance}};
  for (const auto& [name, value] : terms) check_term("MeasuredCost", name, value);
  if (!std::isfinite(s.covariance))
    throw ArgumentError(concat("MeasuredCost: covariance: expected a finite number, got ", s.covariance));
  if ((s.samples > 0) != (s.weight > 0))
    throw ArgumentError(concat("MeasuredCost: weight: expected ", s.samples > 0 ? "one above 0" : "0", " of ",
                               s.samples, " samples, got ", s.weight));
  const std::lock_guard lock(mutex_);
  state_ = s;
}

Line MeasuredCost::fit() const {
  const std::lock_guard lock(mutex_);
  return fit_locked();
}

double MeasuredCost::seconds(double bytes) const {
  check_term("MeasuredCost", "bytes", bytes);
  const Line line = fit();
  return line.c0 + line.c1 * bytes;
}

uint64_t MeasuredCost::samples() const {
  const std::lock_guard lock(mutex_);
  return static_cast<uint64_t>(state_.samples);
}

}  // namespace tsq
