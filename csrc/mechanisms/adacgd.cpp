#include "mechanisms/adacgd.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "common/convert.h"
#include "common/error.h"
#include "common/expression.h"
#include "compressors/chooser.h"
#include "compressors/deliver.h"
#include "mechanisms/survey.h"

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
  if (!key.first || !starts_dense())
    return with_element(
        x.dtype, [&](auto element) { return send_level<typename decltype(element)::State>(x, state, key, out); });
  if (!passes(x, state, key)) return false;
  for (const View& v : state) assign(v, x);
  return send_whole(x, key, out);
}

template <class S>
bool AdaCGD::send_level(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View &h = state[0], &y = state[1];
  thread_local WideSelection<S> wide;  // reused: as large as the largest slice needs
  wide.target = entries_ahead(x, h, y, key);
  wide.energy = -1;
  const Survey seen = survey(x, h, y, wide.target, &wide.entries);
  if (!passes(x, state, key, seen.ordinary) || (wide.target > 0 && !seen.selected)) return false;
  // Without a previous gradient (first, from zero) no error is small enough but none.
  const double allowed = key.first ? 0.0 : zeta(x.numel, key.encode.world_size) * seen.distance.to_previous;
  size_t level = 0;
  if (seen.distance.to_shift <= allowed && !key.first) {
    out.skip();  // for nothing: no policy can do better
  } else {
    Errand errand{x, h, key.encode, key.encode.chooser, seen.distance.to_shift, allowed};
    errand.key.chooser = nullptr;
    level = errand.chooser ? choose(errand, out) : climb(errand, wide, out);
    if (level == 0) return false;
  }
  deliver(y, x);
  out.set_level(static_cast<int>(level));
  return true;
}

size_t AdaCGD::entries_ahead(ConstView x, const View& h, const View& y, const StepKey& key) const {
  if (key.encode.chooser || !selects_in_survey(x.numel)) return 0;
  const Forecast forecast(x, h, y);
  const double allowed = key.first ? -1.0 : zeta(x.numel, key.encode.world_size) * forecast.distance().to_previous;
  if (forecast.distance().to_shift <= allowed) return 0;
  size_t entries = 0;
  for (const TopK* level : sparse_) {
    if (!level) continue;
    const size_t target = level->target(x.numel);
    entries = std::max(entries, target);
    if (forecast.left(static_cast<double>(target) / static_cast<double>(x.numel)) <= allowed) break;
  }
  return entries;
}

template <class S>
size_t AdaCGD::climb(const Errand& errand, WideSelection<S>& wide, Parts& out) const {
  for (size_t level = 1; level < ladder_.size(); ++level) {
    std::optional<bool> enough;
    if (const TopK* c = sparse_[level - 1]) {
      if (widen(*c, errand, wide)) enough = try_entries(*c, errand, wide, out);
    } else {
      enough = try_increment(*ladder_[level - 1], errand, out);
    }
    if (!enough) return 0;
    if (*enough) return level;
    out.clear();
  }
  const size_t level = ladder_.size();
  const TopK* const last = sparse_.back();
  if (!last || (level == 1 && wide.target == 0))
    return send_increment(*ladder_.back(), errand.x, errand.h, errand.key, out) ? level : 0;
  if (!widen(*last, errand, wide)) return 0;
  keep_largest(wide.entries, last->target(errand.x.numel));
  send_selected(*last, errand.x, errand.h, errand.key, wide.entries, out);
  return level;
}

template <class S>
bool AdaCGD::widen(const TopK& c, const Errand& errand, WideSelection<S>& wide) const {
  const size_t n = errand.x.numel;
  if (wide.target >= c.target(n) && wide.target > 0) return true;
  for (const TopK* level : sparse_)
    if (level) wide.target = std::max(wide.target, level->target(n));
  wide.energy = -1;
  return select_largest(kernels::Form::kShifted, errand.x, errand.h.data, wide.target, wide.entries);
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

namespace {

double square(double value) { return value * value; }

/// The sum of term(entry) over all entries, one after the other.
template <class Term>
double sum_of(size_t count, const Term& term) {
  double total = 0;
  for (size_t j = 0; j < count; ++j) total += term(j);
  return total;
}

/// A difference of sums that are nearly equal says nothing.
bool cancels(double left, double size) { return left < size * 0x1p-10; }

/// True if entries of at most this energy, a sum of so many squares, surely leave more than `allowed` of `size`, and so
/// much that the difference is to be trusted: whatever the order in which the squares are added.
bool leaves_more(double size, double energy, size_t count, double allowed) {
  const double rounding = (size + energy) * (4.0 + static_cast<double>(count)) * 0x1p-51;
  const double left = size - energy - rounding;
  return left > allowed && !cancels(left, size);
}

}  // namespace

template <class S>
bool AdaCGD::try_entries(const TopK& c, const Errand& errand, WideSelection<S>& wide, Parts& out) const {
  const auto& [x, h, key, chooser, size, allowed] = errand;
  const size_t target = c.target(x.numel), count = wide.entries.count;
  if (wide.energy < 0) wide.energy = largest_energy_bound(wide.entries, count);
  if (leaves_more(size, wide.energy, count, allowed)) return false;
  if (target < count && leaves_more(size, largest_energy_bound(wide.entries, target), count, allowed)) return false;
  thread_local Selection<S> own;  // reused, as `wide` is
  own.assign(wide.entries);
  keep_largest(own, target);
  double left = size - sum_of(own.count, [&](size_t j) { return square(own.value[j]); });
  const bool cancelled = cancels(left, size);
  if (!cancelled && left > allowed) return false;
  thread_local std::vector<S> exact;
  exact.assign(own.value.begin(), own.value.begin() + static_cast<ptrdiff_t>(own.count));
  const size_t bytes = c.send(kernels::Form::kPlain, x, nullptr, key, own, out.room()).bytes;
  const auto move = [&](const View& shift) {
    for (size_t j = 0; j < own.count; ++j) shift.as<S>()[own.index[j]] += own.value[j];
  };
  if (cancelled) {  // the difference says nothing: measure it
    const ScratchVector moved(x.numel, h.dtype);
    assign(moved.view(), h);
    move(moved.view());
    left = squared_distance(x, moved.view());
  } else {  // and what values of fewer bits than S lose
    left += sum_of(own.count, [&](size_t j) { return square(double(exact[j]) - double(own.value[j])); });
  }
  if (left > allowed) return false;
  move(h);
  out.add(c, bytes);
  return true;
}

/// Writes c(x - h), piece by piece, and leaves h as it is. Returns what it leaves, infinity as soon as that is more
/// than `allowed`; none if it must be measured in one piece or something is not finite.
std::optional<double> AdaCGD::encode_in_pieces(const Compressor& c, const Errand& errand, const Parts& out) {
  constexpr size_t kPiece = SquaredDistance::kStretch;  // a multiple of every codec's group
  const auto& [x, h, key, chooser, size, allowed] = errand;
  alignas(64) std::byte memory[kPiece * sizeof(double)];
  SquaredDistance left;
  for (size_t begin = 0; begin < x.numel; begin += kPiece) {
    const ConstView piece = x.slice(begin, std::min(kPiece, x.numel - begin));
    const View moved{memory, h.dtype, piece.numel};
    assign(moved, h.slice(begin, piece.numel));
    EncodeKey piece_key = out.keyed(key);
    piece_key.offset += begin;
    if (!c.encode_shifted(piece, moved, piece_key, out.room().subspan(c.max_bytes(begin, x.dtype))).finite)
      return std::nullopt;
    left.add(piece, moved);
    if (left.surely_above(allowed)) return HUGE_VAL;
  }
  return left.total();
}

std::optional<bool> AdaCGD::try_increment(const Compressor& c, const Errand& errand, Parts& out) const {
  if (const auto left = c.in_pieces() ? encode_in_pieces(c, errand, out) : std::nullopt) {
    if (*left > errand.allowed) return false;
    const size_t bytes = c.max_bytes(errand.x.numel, errand.x.dtype);
    c.decode_add(out.room().first(bytes), errand.x.dtype, 1.0, errand.h);
    out.add(c, bytes);
    return true;
  }
  const ScratchVector moved(errand.x.numel, errand.h.dtype);
  assign(moved.view(), errand.h);
  if (!send_increment(c, errand.x, moved.view(), errand.key, out)) return std::nullopt;
  const bool enough = squared_distance(errand.x, moved.view()) <= errand.allowed;
  if (enough) assign(errand.h, moved.view());
  return enough;
}

std::optional<ThreePoint> AdaCGD::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha) return std::nullopt;
  return ThreePoint{contraction(*alpha), std::max((1 - *alpha) / contraction(*alpha), zeta(n, world_size))};
}

}  // namespace tsq
