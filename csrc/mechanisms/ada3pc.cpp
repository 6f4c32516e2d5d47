#include "mechanisms/ada3pc.h"

#include <algorithm>

#include "common/error.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

CompressorPtr last_compressor(const std::vector<MechanismPtr>& levels) {
  if (levels.empty()) throw ArgumentError("Ada3PC: mechanisms: expected at least one, got none");
  return {levels.back(), &levels.back()->compressor()};
}

}  // namespace

Ada3PC::Ada3PC(std::vector<MechanismPtr> levels, std::vector<Condition> conditions, Init init)
    : EstimateReceiver(last_compressor(levels), {"shift", "gradient"}, init),
      levels_(std::move(levels)),
      conditions_(std::move(conditions)) {
  if (conditions_.size() + 1 != levels_.size())
    throw ArgumentError(concat("Ada3PC: conditions: expected ", levels_.size() - 1, ", one less than mechanisms, got ",
                               conditions_.size()));
  for (const MechanismPtr& level : levels_) {
    check_part("Ada3PC: mechanisms", *level);
    parts_ = std::max(parts_, level->parts());
  }
}

std::string Ada3PC::spec() const {
  std::string mechanisms, conditions;
  for (const MechanismPtr& m : levels_) mechanisms += (mechanisms.empty() ? "" : ", ") + m->spec();
  for (const Condition& c : conditions_) conditions += (conditions.empty() ? "" : ", ") + c.spec();
  return "Ada3PC([" + mechanisms + "], [" + conditions + "]" + init_text() + ")";
}

std::vector<CompressorPtr> Ada3PC::codecs(size_t part) const {
  std::vector<CompressorPtr> out;
  for (auto level = levels_.rbegin(); level != levels_.rend(); ++level) {
    if (part >= (*level)->parts()) continue;
    for (const CompressorPtr& c : (*level)->codecs(part))
      if (std::ranges::none_of(out, [&](const CompressorPtr& other) { return other->spec() == c->spec(); }))
        out.push_back(c);
  }
  return out;
}

bool Ada3PC::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View &h = state[0], &y = state[1];
  if (key.first && starts_dense()) {
    assign(h, x);
    assign(y, x);
    return send_whole(x, key, out);
  }
  // 1. The first level whose condition holds does its step.
  Situation now(x, h, y, key.first);
  size_t level = 0;
  for (; level < conditions_.size(); ++level) {
    if (conditions_[level].asks_outcome()) {
      const auto kept = attempt(level, x, h, y, key, now, out);
      if (!kept) return false;
      if (*kept) break;
    } else if (conditions_[level].holds(now)) {
      if (!run(*levels_[level], x, h, y, key, out)) return false;
      break;
    }
  }
  if (level == conditions_.size() && !run(*levels_[level], x, h, y, key, out)) return false;
  // 2. Every message has the same number of sections.
  while (out.sections().size() < parts_) out.skip();
  assign(y, x);
  out.set_level(static_cast<int>(level));
  return true;
}

bool Ada3PC::run(const Mechanism& level, ConstView x, View h, View y, const StepKey& key, Parts& out) const {
  std::vector<View> own;
  for (const std::string& name : level.state_names()) own.push_back(name == "shift" ? h : y);
  return level.send(x, own, key, out);
}

std::optional<bool> Ada3PC::attempt(size_t level, ConstView x, View h, View y, const StepKey& key, Situation& now,
                                    Parts& out) const {
  const ScratchVector moved(x.numel, h.dtype), previous(x.numel, y.dtype);
  assign(moved.view(), h);
  assign(previous.view(), y);
  if (!run(*levels_[level], x, moved.view(), previous.view(), key, out)) return std::nullopt;
  if (!conditions_[level].holds(now, squared_distance(x, moved.view()))) {
    out.clear();
    return false;
  }
  assign(h, moved.view());
  return true;
}

std::optional<ThreePoint> Ada3PC::three_point(size_t n, uint32_t world_size) const {
  ThreePoint out{1, 0};
  for (size_t j = 0; j < levels_.size(); ++j) {
    const Condition* condition = j < conditions_.size() ? &conditions_[j] : nullptr;
    const auto own = condition && condition->asks_outcome() ? std::optional(ThreePoint{1, condition->zeta()})
                                                            : levels_[j]->three_point(n, world_size);
    if (!own) return std::nullopt;
    out = {std::min(out.A, own->A), std::max(out.B, own->B)};
    if (condition && condition->kind() == Condition::Kind::kAlways) break;  // what follows is never reached
  }
  return out;
}

}  // namespace tsq
