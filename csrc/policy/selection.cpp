#include "policy/selection.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "compressors/sums.h"

namespace tsq {

namespace {

template <class S>
double largest_of(std::span<const S> g) {
  S largest = 0;
  for (const S value : g) largest = std::max(largest, std::abs(value));
  return static_cast<double>(largest);
}

/// The power of two that takes `largest` to [1, 2), as far as a double goes; 1 for 0.
double unit_for(double largest) { return largest > 0 ? std::ldexp(1.0, std::min(-std::ilogb(largest), 1023)) : 1.0; }

double sum_of_squares(std::span<const double> y) {
  return lane_sum(y.size(), [&](size_t i) { return y[i] * y[i]; });
}

/// The best of a sequence of ratios, the first of equal ones.
class Best {
 public:
  void offer(double ratio, uint64_t entries) {
    if (ratio > ratio_) ratio_ = ratio, entries_ = entries;
  }
  double ratio() const { return ratio_; }
  uint64_t entries() const { return entries_; }

 private:
  double ratio_ = 0;
  uint64_t entries_ = 0;
};

/// The numbers of entries that fill 1, 2, ... packets, up to `count`: whole numbers, or expected ones.
class Packets {
 public:
  Packets(const EntryCost& cost, size_t count, bool whole)
      : cost_(cost), count_(static_cast<double>(count)), whole_(whole) {}

  /// The next of them, 0 at the end.
  double next() {
    if (room_ >= count_) return 0;
    do {
      room_ = ++packets_ * cost_.per_packet - cost_.lead;
      room_ = std::min(count_, whole_ ? std::floor(room_) : room_);
    } while (room_ <= 0);
    return room_;
  }
  /// What they cost. Not EntryCost's own: rounding there may see a full packet run over.
  double cost() const { return cost_.c0 + cost_.c1 * packets_; }

 private:
  const EntryCost& cost_;
  double count_, packets_ = 0, room_ = 0;
  bool whole_;
};

}  // namespace

// With the ratio lambda = sum_kept g^2 / (c0 + c1 kept) of any set, {g^2 > c1 lambda} has at least this ratio: the
// kept sets shrink, and the one that stays is the best. tau^2 = c1 lambda there: c0 tau^2 = c1 (sum_kept g^2 - kept
// tau^2).
template <class S>
Cut best_cut(std::span<const S> g, double c0, double c1) {
  const double largest = largest_of(g);
  if (largest == 0) return {};
  if (c1 == 0) return {0.0, count_above(g, 0.0)};
  const double unit = unit_for(largest), fixed = c0 / c1;
  const auto square = [&](size_t i) {
    const double y = static_cast<double>(g[i]) * unit;
    return y * y;
  };
  double bar = 0;  // tau^2 in these units
  uint64_t kept = g.size() + 1;
  for (;;) {
    const double sum = lane_sum(g.size(), [&](size_t i) {
      const double y2 = square(i);
      return y2 > bar ? y2 : 0.0;
    });
    const auto count = static_cast<uint64_t>(lane_sum(g.size(), [&](size_t i) { return square(i) > bar ? 1.0 : 0.0; }));
    if (count == 0) return {std::sqrt(bar) / unit, 1};  // c0 = 0: only the largest are level with their ratio
    if (count >= kept) return {std::sqrt(bar) / unit, kept};
    kept = count;
    bar = sum / (fixed + static_cast<double>(count));
  }
}

template <class S>
uint64_t count_above(std::span<const S> g, double tau) {
  return static_cast<uint64_t>(
      lane_sum(g.size(), [&](size_t i) { return std::abs(static_cast<double>(g[i])) > tau ? 1.0 : 0.0; }));
}

template <class S>
std::vector<double> sorted_magnitudes(std::span<const S> g, double* unit) {
  *unit = unit_for(largest_of(g));
  std::vector<S> magnitudes;
  magnitudes.reserve(g.size());
  for (const S value : g)
    if (value != 0) magnitudes.push_back(std::abs(value));
  std::sort(magnitudes.begin(), magnitudes.end(), std::greater<>());
  std::vector<double> out(magnitudes.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<double>(magnitudes[i]) * *unit;
  return out;
}

uint64_t first_decrease(std::span<const double> sorted, const EntryCost& cost) {
  Packets packets(cost, sorted.size(), /*whole=*/true);
  double sum = 0, ratio = 0;
  uint64_t entries = 0;
  while (entries < sorted.size()) {
    const uint64_t next = cost.affine() ? entries + 1 : static_cast<uint64_t>(packets.next());
    for (uint64_t i = entries; i < next; ++i) sum += sorted[i] * sorted[i];
    const double next_ratio = sum / (cost.affine() ? cost(static_cast<double>(next)) : packets.cost());
    if (next_ratio <= ratio) break;
    ratio = next_ratio;
    entries = next;
  }
  return entries;
}

uint64_t best_packets(std::span<const double> sorted, const EntryCost& cost) {
  Packets packets(cost, sorted.size(), /*whole=*/true);
  Best best;
  double sum = 0;
  uint64_t entries = 0;
  while (const auto next = static_cast<uint64_t>(packets.next())) {
    for (; entries < next; ++entries) sum += sorted[entries] * sorted[entries];
    best.offer(sum / packets.cost(), next);
  }
  return best.entries();
}

uint64_t best_signs(std::span<const double> sorted, const EntryCost& cost) {
  Best best;
  double sum = 0;
  for (uint64_t t = 1; t <= sorted.size(); ++t) {
    sum += sorted[t - 1];
    const auto entries = static_cast<double>(t);
    best.offer(sum * sum / (entries * cost(entries)), t);
  }
  return best.entries();
}

// For T entries, the `certain` largest reach tau = (sum of the others) / (T - certain); more of them the larger T is.
double best_packets_threshold(std::span<const double> sorted, const EntryCost& cost) {
  Packets packets(cost, sorted.size(), /*whole=*/false);
  double rest = 0, squares = 0, best_ratio = 0, best_tau = 0;
  for (const double y : sorted) rest += y;
  size_t certain = 0;
  const auto count = static_cast<double>(sorted.size());
  while (const double entries = packets.next()) {
    const auto left = [&] { return entries - static_cast<double>(certain); };
    for (; certain < sorted.size() && sorted[certain] * left() >= rest; ++certain) {
      rest = std::max(0.0, rest - sorted[certain]);
      squares += sorted[certain] * sorted[certain];
    }
    const double tau = entries < count && left() > 0 ? rest / left() : 0.0;
    const double moment = entries < count ? squares + tau * rest : sum_of_squares(sorted);
    if (const double ratio = 1 / (moment * packets.cost()); ratio > best_ratio) best_ratio = ratio, best_tau = tau;
  }
  return best_tau;
}

uint64_t best_signs_at_price(std::span<const double> sorted, double price) {
  Best best;
  double sum = 0;
  for (uint64_t t = 1; t <= sorted.size(); ++t) {
    sum += sorted[t - 1];
    best.offer(sum * sum / static_cast<double>(t) - price * static_cast<double>(t), t);
  }
  return best.entries();
}

template Cut best_cut(std::span<const float>, double, double);
template Cut best_cut(std::span<const double>, double, double);
template uint64_t count_above(std::span<const float>, double);
template uint64_t count_above(std::span<const double>, double);
template std::vector<double> sorted_magnitudes(std::span<const float>, double*);
template std::vector<double> sorted_magnitudes(std::span<const double>, double*);

}  // namespace tsq
