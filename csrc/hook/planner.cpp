#include "hook/planner.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/error.h"
#include "common/expression.h"
#include "compressors/mixed_quantizer.h"
#include "mechanisms/registry.h"

namespace tsq {

namespace {

/// The mechanism of this spec with another average width in its Quantizer: the one that its first argument, or it
/// itself, is.
MechanismPtr with_bits(const std::string& spec, double bits) {
  Value value = parse_expression(spec);
  Value* call = &value;
  while (call->text != "Quantizer") call = &call->arguments.at(0).value;
  const auto named = std::find_if(call->arguments.begin(), call->arguments.end(),
                                  [](const Argument& a) { return a.name == "bits" || a.name.empty(); });
  Value number;
  number.kind = Value::Kind::kFloat;
  number.number = bits;
  if (named == call->arguments.end())
    call->arguments.push_back({"bits", number});
  else
    named->value = number;
  return parse_mechanism(to_string(value));
}

/// Its average width, if what it compresses with is a quantizer of the family and nothing else.
std::optional<double> average_of(const Mechanism& mechanism) {
  if (mechanism.parts() != 1 || mechanism.codecs(0).size() != 1) return std::nullopt;
  if (const auto* mixed = dynamic_cast<const MixedQuantizer*>(mechanism.codecs(0)[0].get())) return mixed->bits();
  if (const auto* whole = dynamic_cast<const Quantizer*>(mechanism.codecs(0)[0].get())) return whole->config().bits;
  return std::nullopt;
}

WidthLimits limits_of(const Mechanism& mechanism, double average) {
  const auto& mixed = dynamic_cast<const MixedQuantizer&>(*mechanism.codecs(0)[0]);
  return {.curve = mixed.curve(), .least = average >= 2 ? mixed.least() : 1};
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

void Planner::make_plannable(std::vector<Parameter>& parameters) {
  for (Parameter& p : parameters)
    for (MechanismPtr* mechanism : {&p.up, &p.down})
      if (const auto average = average_of(**mechanism)) *mechanism = with_bits((*mechanism)->spec(), *average);
}

Planner::Planner(const PlannerConfig& config, const std::vector<Parameter>& parameters, Position position)
    : config_(config), position_(std::move(position)), running_(config.kind, config.decay, {}) {
  if (!(config.floor > 0 && config.floor <= 1))
    throw ArgumentError(concat("smoothness: floor: expected a number in (0, 1], got ", config.floor));
  if (config.interval == 0) throw ArgumentError("smoothness: interval: expected at least 1 step, got 0");
  find_planned(parameters);
}

void Planner::find_planned(const std::vector<Parameter>& parameters) {
  planned_.clear();
  index_.assign(parameters.size(), -1);
  seen_.assign(parameters.size(), false);
  std::vector<RunningSmoothness::Of> all;
  for (uint32_t id = 0; id < parameters.size(); ++id) {
    const Parameter& p = parameters[id];
    const auto up = average_of(*p.up), down = average_of(*p.down);
    if (!up && !down) continue;
    One one{.id = id, .up = p.up->spec(), .down = p.down->spec(), .limits_up = {}, .limits_down = {}, .costs = {}};
    if (up) one.average_up = one.bits_up = *up, one.limits_up = limits_of(*p.up, *up);
    if (down) one.average_down = one.bits_down = *down, one.limits_down = limits_of(*p.down, *down);
    one.run = (up ? p.up : p.down)->granularity();
    index_[id] = static_cast<int>(planned_.size());
    all.push_back({p.numel, p.dtype, one.run});
    planned_.push_back(std::move(one));
  }
  if (planned_.empty())
    throw ArgumentError(
        "smoothness: expected a spec with a Quantizer, whose widths it can plan; no parameter has one (exempt ones "
        "do not count)");
  running_ = RunningSmoothness(config_.kind, config_.decay, std::move(all));
}

void Planner::adopt(std::vector<Parameter>& parameters) {
  make_plannable(parameters);
  const std::vector<One> old = planned_;
  const RunningSmoothness before = running_;
  const std::vector<bool> seen = seen_;
  find_planned(parameters);
  seen_ = seen;
  for (const One& was : old) {
    const int now = index_[was.id];
    if (now < 0 || planned_[static_cast<size_t>(now)].run != was.run) continue;
    const auto from = static_cast<size_t>(&was - old.data());
    running_.load(static_cast<size_t>(now), before.state(from));
  }
  if (steps_ >= config_.warmup) {
    plan();
    apply(parameters);
  }
}

bool Planner::begin(std::span<const uint32_t> ids, std::vector<Parameter>& parameters) {
  const bool starts = std::any_of(ids.begin(), ids.end(), [&](uint32_t id) { return seen_[id]; });
  if (starts) {
    seen_.assign(seen_.size(), false);
    ++steps_;
  }
  for (const uint32_t id : ids) seen_[id] = true;
  if (!starts || steps_ < config_.warmup || (steps_ - config_.warmup) % config_.interval != 0) return false;
  plan();
  apply(parameters);
  return true;
}

void Planner::observe(const Layout& layout, ConstView delivered) {
  for (const Piece& piece : layout.whole.pieces) {
    const int i = index_[piece.parameter];
    if (i < 0) continue;
    const ConstView position =
        position_ && config_.kind == RunningKind::kSecant ? position_(piece.parameter) : ConstView{};
    running_.observe(static_cast<size_t>(i), delivered.slice(piece.at, piece.numel), position);
  }
}

void Planner::give(uint32_t id, ConstView diagonal) {
  if (index_[id] >= 0) running_.give(static_cast<size_t>(index_[id]), diagonal);
}

void Planner::plan() {
  double moment = 0, curvature = 0;
  size_t known = 0, curved = 0;
  for (size_t i = 0; i < planned_.size(); ++i) {
    const std::vector<double> c = running_.curvature(i);
    moment += mean({running_.moment(i).begin(), running_.moment(i).end()});
    curvature += mean(c);
    known += !running_.moment(i).empty();
    curved += !c.empty();
  }
  if (known == 0) return;
  const double least_moment = config_.floor * moment / static_cast<double>(known);
  const double least_curvature = curved ? config_.floor * curvature / static_cast<double>(curved) : 0.0;
  for (size_t i = 0; i < planned_.size(); ++i)
    planned_[i].costs =
        error_costs(config_.metric, running_.moment(i), running_.curvature(i), least_moment, least_curvature);
  share(/*down=*/false);
  share(/*down=*/true);
}

void Planner::share(bool down) {
  std::map<std::string, std::vector<size_t>> by_spec;  // in force or not: those who share a budget
  for (size_t i = 0; i < planned_.size(); ++i)
    if ((down ? planned_[i].average_down : planned_[i].average_up) > 0)
      by_spec[down ? planned_[i].down : planned_[i].up].push_back(i);
  for (const auto& [spec, members] : by_spec) {
    std::vector<WidthShare> shares;
    for (const size_t i : members) {
      const size_t known = std::min(planned_[i].costs.size(), running_.moment(i).size());
      // The last run, if it is shorter, has no width of its own to choose.
      const size_t whole = std::min(known, running_.numel(i) / planned_[i].run);
      shares.push_back({std::span(planned_[i].costs).first(whole), running_.moment(i).first(whole)});
    }
    const One& first = planned_[members[0]];
    const std::vector<double> bits =
        share_bits(shares, down ? first.average_down : first.average_up, down ? first.limits_down : first.limits_up);
    for (size_t m = 0; m < members.size(); ++m)
      (down ? planned_[members[m]].bits_down : planned_[members[m]].bits_up) = bits[m];
  }
}

void Planner::apply(std::vector<Parameter>& parameters) const {
  for (const One& p : planned_) {
    if (p.average_up > 0) parameters[p.id].up = with_bits(p.up, p.bits_up);
    if (p.average_down > 0) parameters[p.id].down = with_bits(p.down, p.bits_down);
  }
}

std::span<const double> Planner::weights(const Piece& piece) const {
  const int i = index_[piece.parameter];
  if (i < 0) return {};
  const One& p = planned_[static_cast<size_t>(i)];
  return std::span(p.costs).subspan(std::min(p.costs.size(), piece.begin / p.run));
}

std::optional<Planner::Planned> Planner::planned(uint32_t id) const {
  const int i = index_[id];
  if (i < 0) return std::nullopt;
  double all = 0;
  size_t known = 0;
  for (const One& p : planned_) all += mean(p.costs), known += !p.costs.empty();
  const One& p = planned_[static_cast<size_t>(i)];
  const double bits = p.average_up > 0 ? p.bits_up : p.bits_down;
  return Planned{bits, p.costs.empty() || all == 0 ? 1.0 : mean(p.costs) * static_cast<double>(known) / all};
}

Planner::Saved Planner::state() const {
  Saved saved{steps_, {}};
  for (size_t i = 0; i < planned_.size(); ++i) {
    const One& p = planned_[i];
    std::vector<double> values = {p.bits_up, p.bits_down, static_cast<double>(p.costs.size())};
    values.insert(values.end(), p.costs.begin(), p.costs.end());
    const std::vector<double> estimates = running_.state(i);
    values.insert(values.end(), estimates.begin(), estimates.end());
    saved.parameters.emplace_back(p.id, std::move(values));
  }
  return saved;
}

void Planner::load(const Saved& saved, std::vector<Parameter>& parameters) {
  if (saved.parameters.size() != planned_.size())
    throw ArgumentError(
        concat("state_dict: running: expected ", planned_.size(), " parameters, got ", saved.parameters.size()));
  RunningSmoothness running = running_;
  std::vector<One> planned = planned_;
  for (const auto& [id, values] : saved.parameters) {
    const int i = id < index_.size() ? index_[id] : -1;
    if (i < 0) throw ArgumentError(concat("state_dict: running: expected planned parameters, got number ", id));
    One& p = planned[static_cast<size_t>(i)];
    const double runs =
        std::ceil(static_cast<double>(running.numel(static_cast<size_t>(i))) / static_cast<double>(p.run));
    if (values.size() < 3 || (values[2] != 0 && values[2] != runs) ||
        values.size() < 3 + static_cast<size_t>(values[2]))
      throw ArgumentError(concat("state_dict: running: expected ", runs, " runs of ", parameters[id].name));
    for (const double bits : {values[0], values[1]})
      if (!(bits == 0 || (bits >= 1 && bits <= kMaxWidth)))
        throw ArgumentError(concat("state_dict: running: bits: expected 1 to 8, got ", bits));
    const auto costs = static_cast<size_t>(values[2]);
    p.bits_up = p.average_up > 0 ? std::max(values[0], 1.0) : 0;
    p.bits_down = p.average_down > 0 ? std::max(values[1], 1.0) : 0;
    p.costs.assign(values.begin() + 3, values.begin() + 3 + static_cast<std::ptrdiff_t>(costs));
    running.load(static_cast<size_t>(i), std::span(values).subspan(3 + costs));
  }
  running_ = std::move(running);
  planned_ = std::move(planned);
  steps_ = saved.steps;
  seen_.assign(seen_.size(), true);  // the next bucket begins a step, as it would have where this was saved
  apply(parameters);
}

}  // namespace tsq
