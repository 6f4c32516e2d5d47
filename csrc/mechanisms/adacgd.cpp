#include "mechanisms/adacgd.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/convert.h"
#include "common/error.h"
#include "common/expression.h"
#include "compressors/chooser.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

constexpr size_t kTypical = 1 << 20;  // elements: where the order of a ladder is checked

CompressorPtr finest(const std::vector<CompressorPtr>& ladder) {
  if (ladder.empty()) throw ArgumentError("AdaCGD: ladder: expected at least one compressor, got none");
  return ladder.back()->as_contractive();
}

}  // namespace

AdaCGD::AdaCGD(std::vector<CompressorPtr> ladder, std::optional<double> zeta, Init init)
    : EstimateReceiver(finest(ladder), {"shift", "gradient"}, init), written_(std::move(ladder)), zeta_(zeta) {
  if (zeta && !(*zeta >= 0)) throw ArgumentError(concat("AdaCGD: zeta: expected a number of at least 0, got ", *zeta));
  for (const CompressorPtr& c : written_) {
    ladder_.push_back(c->as_contractive());
    sparse_.push_back(dynamic_cast<const TopK*>(ladder_.back().get()));
  }
  for (size_t j = 1; j < ladder_.size(); ++j) {
    const auto lower = ladder_[j - 1]->class_of(kTypical).alpha, upper = ladder_[j]->class_of(kTypical).alpha;
    if (lower && upper && *lower > *upper)
      throw ArgumentError(concat("AdaCGD: ladder: expected compressors from cheap to accurate, got ",
                                 written_[j - 1]->spec(), " (alpha ", *lower, ") before ", written_[j]->spec(),
                                 " (alpha ", *upper, ")"));
  }
}

std::string AdaCGD::spec() const {
  std::string out = "AdaCGD([";
  for (const CompressorPtr& c : written_) out += (c == written_.front() ? "" : ", ") + c->spec();
  out += "]";
  if (zeta_) out += ", zeta=" + number_text(*zeta_);
  return out + init_text() + ")";
}

double AdaCGD::zeta(size_t n, uint32_t world_size) const {
  if (zeta_) return *zeta_;
  const auto alpha = compressor().class_of(n, world_size).alpha;
  return alpha ? (1 - *alpha) / contraction(*alpha) : 0.0;
}

bool AdaCGD::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View &h = state[0], &y = state[1];
  if (key.first && starts_dense()) {
    assign(h, x);
    assign(y, x);
    return send_whole(x, key, out);
  }
  const Distances distance = squared_distances(x, h, y);
  // Without a previous gradient (first, from zero) no error is small enough but none.
  const double allowed = key.first ? 0.0 : zeta(x.numel, key.encode.world_size) * distance.to_previous;
  size_t level = 0;
  if (distance.to_shift <= allowed && !key.first) {
    out.skip();  // for nothing: no policy can do better
  } else {
    Errand errand{x, h, key.encode, key.encode.chooser, distance.to_shift, allowed};
    errand.key.chooser = nullptr;
    level = errand.chooser ? choose(errand, out) : with_element(x.dtype, [&](auto element) {
      return climb<typename decltype(element)::State>(errand, out);
    });
    if (level == 0) return false;
  }
  assign(y, x);
  out.set_level(static_cast<int>(level));
  return true;
}

template <class S>
size_t AdaCGD::climb(const Errand& errand, Parts& out) const {
  const auto& [x, h, key, chooser, size, allowed] = errand;
  thread_local std::vector<Selection<S>> selected;  // by level; reused: as large as the largest slice's
  if (!select_all(errand, selected)) return 0;
  size_t level = 1;
  for (; level < ladder_.size(); ++level) {
    bool enough = false;
    if (const TopK* c = sparse_[level - 1]) {
      enough = try_entries(*c, errand, selected[level - 1], out);
    } else {
      const ScratchVector moved(x.numel, h.dtype);
      assign(moved.view(), h);
      if (!send_increment(*ladder_[level - 1], x, moved.view(), key, out)) return 0;
      enough = squared_distance(x, moved.view()) <= allowed;
      if (enough) assign(h, moved.view());
    }
    if (enough) return level;
    out.clear();
  }
  const TopK* last = sparse_[level - 1];
  if (last == nullptr || level == 1) return send_increment(*ladder_[level - 1], x, h, key, out) ? level : 0;
  out.add(*last, last->send(kernels::Form::kShifted, x, h.data, key, selected[level - 1], out.room()).bytes);
  return level;
}

size_t AdaCGD::choose(const Errand& errand, Parts& out) const {
  const auto& [x, h, key, chooser, size, allowed] = errand;
  const ScratchVector moved(x.numel, h.dtype);
  size_t best = 0;
  double best_utility = 0;
  Compressor::Choice choice;
  for (size_t level = 1; level <= ladder_.size(); ++level) {
    assign(moved.view(), h);
    if (!send_increment(*ladder_[level - 1], x, moved.view(), key, out)) return 0;
    const double left = squared_distance(x, moved.view()), bits = 8.0 * static_cast<double>(out.bytes());
    out.clear();
    if (level < ladder_.size() && left > allowed) continue;
    const TopK* const sparse = sparse_[level - 1];
    const uint64_t entries = sparse ? sparse->target(x.numel) : x.numel;
    const double utility = chooser->utility(size - left, entries, bits);
    if (best > 0 && utility <= best_utility) continue;
    best = level;
    best_utility = utility;
    choice = {entries, (size - left) / size};
  }
  if (!send_increment(*ladder_[best - 1], x, h, key, out)) return 0;
  out.set_choice(choice);
  return best;
}

/// The selections of all levels that are Top-K, if there is more than one level: from one sweep for the widest, each
/// narrower one from the next wider.
template <class S>
bool AdaCGD::select_all(const Errand& errand, std::vector<Selection<S>>& selected) const {
  selected.resize(std::max(selected.size(), ladder_.size()));
  if (ladder_.size() == 1) return true;
  std::vector<size_t> order;
  for (size_t i = ladder_.size(); i-- > 0;)
    if (sparse_[i]) order.push_back(i);
  const auto target = [&](size_t i) { return sparse_[i]->target(errand.x.numel); };
  std::ranges::stable_sort(order, std::greater<>(), target);  // k and ratio may cross at this length
  for (size_t j = 0; j < order.size(); ++j) {
    Selection<S>& mine = selected[order[j]];
    if (j == 0) {
      if (!select_largest(kernels::Form::kShifted, errand.x, errand.h.data, target(order[j]), mine)) return false;
      continue;
    }
    const Selection<S>& wider = selected[order[j - 1]];
    mine.count = wider.count;
    mine.index.assign(wider.index.begin(), wider.index.begin() + static_cast<ptrdiff_t>(wider.count));
    mine.value.assign(wider.value.begin(), wider.value.begin() + static_cast<ptrdiff_t>(wider.count));
    keep_largest(mine, target(order[j]));
  }
  return true;
}

template <class S>
bool AdaCGD::try_entries(const TopK& c, const Errand& errand, Selection<S>& kept, Parts& out) const {
  const auto& [x, h, key, chooser, size, allowed] = errand;
  const auto sum = [&](auto term) {
    double total = 0;
    for (size_t j = 0; j < kept.count; ++j) total += term(j);
    return total;
  };
  double left = size - sum([&](size_t j) { return double(kept.value[j]) * double(kept.value[j]); });
  const bool cancelled = left < size * 0x1p-10;
  if (!cancelled && left > allowed) return false;
  const std::vector<S> exact(kept.value.begin(), kept.value.begin() + static_cast<ptrdiff_t>(kept.count));
  const size_t bytes = c.send(kernels::Form::kPlain, x, nullptr, key, kept, out.room()).bytes;
  const auto move = [&](const View& shift) {
    for (size_t j = 0; j < kept.count; ++j) shift.as<S>()[kept.index[j]] += kept.value[j];
  };
  if (cancelled) {  // the difference says nothing: measure it
    const ScratchVector moved(x.numel, h.dtype);
    assign(moved.view(), h);
    move(moved.view());
    left = squared_distance(x, moved.view());
  } else {  // and what values of fewer bits than S lose
    left += sum([&](size_t j) { return std::pow(double(exact[j]) - double(kept.value[j]), 2); });
  }
  if (left > allowed) return false;
  move(h);
  out.add(c, bytes);
  return true;
}

std::optional<ThreePoint> AdaCGD::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha) return std::nullopt;
  return ThreePoint{contraction(*alpha), std::max((1 - *alpha) / contraction(*alpha), zeta(n, world_size))};
}

}  // namespace tsq
