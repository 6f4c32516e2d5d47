#include "policy/selection.h"

#include <algorithm>
#include <cmath>

#include "compressors/sums.h"

namespace tsq {

namespace {

constexpr double kSlack = 1 + 1e-12;  // bounds that rounding must not make too low
constexpr double kDeviations[] = {0, 0.5, 1, 1.5, 2, 2.5, 3, 4};

/// The numbers of entries that fill 1, 2, ... packets, up to `count`: whole numbers, or expected ones.
class Packets {
 public:
  Packets(const EntryCost& cost, double count, bool whole) : cost_(cost), count_(count), whole_(whole) {}

  /// The next of them, 0 at the end.
  double next() {
    if (room_ >= count_) return 0;
    do {
      ++packets_;
      room_ = std::min(count_, room_of(packets_));
    } while (room_ <= 0);
    return room_;
  }
  double packets() const { return packets_; }
  double room_of(double packets) const {
    const double room = packets * cost_.per_packet - cost_.lead;
    return whole_ ? std::floor(room) : room;
  }
  /// What they cost. Not EntryCost's own: rounding there may see a full packet run over.
  double cost() const { return cost_.c0 + cost_.c1 * packets_; }

 private:
  const EntryCost& cost_;
  double count_, packets_ = 0, room_ = 0;
  bool whole_;
};

/// The best of a sequence of values, the first of equal ones; 0 entries have the value `none`.
class Best {
 public:
  explicit Best(const Objective& objective) : value_(objective.price ? 0.0 : -HUGE_VAL) {}
  void offer(double value, uint64_t entries) {
    if (value > value_) value_ = value, entries_ = entries;
  }
  double value() const { return value_; }
  uint64_t entries() const { return entries_; }

 private:
  double value_;
  uint64_t entries_ = 0;
};

/// True if a bound is so far below `best` that rounding does not matter.
bool below(double bound, double best) { return bound + std::abs(bound) * (kSlack - 1) < best; }

/// What `read` is of the `rank` largest at least and at most, if that number is reached in a bin of members in [low,
/// high), as `read` sees them: the sums of its largest lie on a concave curve over the chord and under the tangents at
/// its ends.
struct Range {
  double least, most;
};
Range sum_of_largest(double rank, const Tally& before, const Tally& after, double Tally::*read, double high,
                     double low) {
  const double start = before.*read, end = after.*read, at = rank - before.count, left = after.count - rank;
  return {.least = start + (end - start) * (at / (after.count - before.count)),
          .most = std::min(start + at * high, end - left * low)};
}

/// Adds those of `members` to `tally` that wanted(member) says yes to.
template <class Wanted>
void take(std::span<const double> members, Wanted wanted, Tally& tally) {
  for (const double y : members) {
    if (!wanted(y)) continue;
    tally.count += 1;
    tally.sum += y;
    tally.squares += y * y;
  }
}

/// Calls visit(first, end) for the runs of bins that `wanted` says yes to.
template <class Wanted, class Visit>
void for_runs(size_t bins, Wanted wanted, Visit visit) {
  for (size_t b = 0; b < bins; ++b) {
    if (!wanted(b)) continue;
    const size_t first = b;
    while (b + 1 < bins && wanted(b + 1)) ++b;
    visit(first, b + 1);
  }
}

}  // namespace

// With the ratio lambda = sum_kept g^2 / (c0 + c1 kept) of any set, {g^2 > c1 lambda} has at least this ratio: the
// kept sets shrink, and the one that stays is the best. tau^2 = c1 lambda there: c0 tau^2 = c1 (sum_kept g^2 - kept
// tau^2). First with sets of whole bins, those above the bin with the bar; what they end in is the ratio of a set
// still.
template <class S>
Cut best_cut(Profile<S>& profile, double c0, double c1) {
  if (profile.nonzeros() == 0) return {};
  if (c1 == 0) return {0.0, profile.nonzeros()};
  const double fixed = c0 / c1;
  double bar = profile.all().squares / (fixed + profile.all().count);  // tau^2 in the profile's units
  const auto bin_of_bar = [&] {
    size_t bin = profile.bin_of(std::sqrt(bar));
    while (bin > 0 && profile.upper(bin) * profile.upper(bin) <= bar) --bin;  // the root was rounded
    while (bin + 1 < profile.kBins && profile.lower(bin) * profile.lower(bin) > bar) ++bin;
    return bin;
  };
  for (;;) {
    const Tally& t = profile.above(bin_of_bar());
    if (t.count == 0 || t.squares / (fixed + t.count) <= bar) break;
    bar = t.squares / (fixed + t.count);
  }
  for (double kept = profile.all().count + 1;;) {
    const size_t bin = bin_of_bar();
    Tally t = profile.above(bin);
    take(
        profile.members(bin, bin + 1), [&](double y) { return y * y > bar; }, t);
    if (t.count == 0)
      return {std::sqrt(bar) / profile.unit(), 1};  // c0 = 0: only the largest are level with their ratio
    if (t.count >= kept) return {std::sqrt(bar) / profile.unit(), static_cast<uint64_t>(kept)};
    kept = t.count;
    bar = t.squares / (fixed + t.count);
  }
}

template <class S>
uint64_t count_above(std::span<const S> g, double tau) {
  return static_cast<uint64_t>(
      lane_sum(g.size(), [&](size_t i) { return std::abs(static_cast<double>(g[i])) > tau ? 1.0 : 0.0; }));
}

// A full packet is looked at closely if its upper bound reaches the best of the lower ones.
template <class S>
uint64_t best_packets(Profile<S>& profile, const EntryCost& cost, const Objective& objective) {
  const auto visit = [&](auto see) {  // see(entries, bin, bounds of the gain, cost)
    Packets packets(cost, profile.all().count, /*whole=*/true);
    size_t bin = 0;
    while (const double entries = packets.next()) {
      while (profile.above(bin + 1).count < entries) ++bin;
      const double high = profile.upper(bin), low = profile.lower(bin);
      see(entries, bin,
          sum_of_largest(entries, profile.above(bin), profile.above(bin + 1), &Tally::squares, high * high, low * low),
          packets.cost());
    }
  };
  double reached = -HUGE_VAL;
  visit([&](double, size_t, const Range& gain, double price) {
    reached = std::max(reached, objective(gain.least, price));
  });
  size_t first = profile.kBins, end = 0;
  visit([&](double, size_t bin, const Range& gain, double price) {
    if (below(objective(gain.most, price), reached)) return;
    first = std::min(first, bin);
    end = bin + 1;
  });
  if (end == 0) return 0;
  const std::span<const double> members = profile.sorted(first, end);
  Best best(objective);
  double sum = profile.above(first).squares;
  size_t taken = 0;
  visit([&](double entries, size_t bin, const Range&, double price) {
    if (bin < first || bin >= end) return;
    for (; static_cast<double>(taken) < entries - profile.above(first).count; ++taken)
      sum += members[taken] * members[taken];
    best.offer(objective(sum, price), static_cast<uint64_t>(entries));
  });
  return best.entries();
}

// Within a bin S(T) is at most a concave line of two pieces. On each, (a + h T)^2 / T over an affine cost, or less an
// affine cost, has a, h >= 0 and no maximum but at its ends: the bound is the largest value at the bin's ends and where
// the pieces meet. Costs in steps count as the affine ones below them, or as constant, whichever bounds better.
template <class S>
uint64_t best_signs(Profile<S>& profile, const EntryCost& cost, const Objective& objective) {
  const auto value = [&](double sum, double t, double price) {
    return t > 0 ? objective(sum * sum / t, price) : -HUGE_VAL;
  };
  const auto bound = [&](size_t bin) {
    const Tally &before = profile.above(bin), &after = profile.above(bin + 1);
    const double high = profile.upper(bin), low = profile.lower(bin), least = cost(before.count + 1);
    const double meet = std::clamp((after.sum - before.sum - after.count * low + before.count * high) / (high - low),
                                   before.count, after.count);
    const double sum = std::max(after.sum - (after.count - meet) * low, before.sum + (meet - before.count) * high);
    double stepped = -HUGE_VAL, straight = -HUGE_VAL;
    for (const auto& [s, t] : {std::pair(before.sum, before.count), {sum, meet}, {after.sum, after.count}}) {
      stepped = std::max(stepped, value(s, t, least));
      straight = std::max(straight,
                          value(s, t, cost.affine() ? cost(t) : cost.c0 + cost.c1 * (cost.lead + t) / cost.per_packet));
    }
    return std::min(stepped, straight);
  };
  double reached = objective.price ? 0.0 : -HUGE_VAL;
  for (size_t b = 0; b < profile.kBins; ++b) {
    const Tally& after = profile.above(b + 1);
    reached = std::max(reached, value(after.sum, after.count, cost(after.count)));
  }
  Best best(objective);
  const auto wanted = [&](size_t bin) {
    return profile.above(bin + 1).count > profile.above(bin).count && !below(bound(bin), reached);
  };
  for_runs(profile.kBins, wanted, [&](size_t first, size_t end) {
    double sum = profile.above(first).sum, t = profile.above(first).count;
    for (const double y : profile.sorted(first, end)) {
      sum += y;
      t += 1;
      best.offer(value(sum, t, cost(t)), static_cast<uint64_t>(t));
    }
  });
  return best.entries();
}

template <class S>
Draw draw_at(Profile<S>& profile, double tau, bool exactly) {
  const Tally& all = profile.all();
  if (tau == 0) return {all.count, 0, all.squares};
  const size_t bin = profile.bin_of(tau);
  Tally certain = profile.above(bin);
  if (exactly)
    take(
        profile.members(bin, bin + 1), [&](double y) { return y >= tau; }, certain);
  const double rest = std::max(0.0, all.sum - certain.sum), p = rest / tau;
  return {certain.count + p, std::max(0.0, p - (all.squares - certain.squares) / (tau * tau)),
          certain.squares + tau * rest};
}

// c0 + c1 times the expected number of packets: 1, and one more for every edge that T passes.
double expected_cost(const EntryCost& cost, double mean, double variance) {
  if (cost.affine() || variance == 0) return cost(mean);
  const double deviation = std::sqrt(variance), reach = 6 * deviation;
  const double first = std::max(1.0, std::floor((cost.lead + mean - reach) / cost.per_packet));
  double packets = first;
  for (double k = first;; ++k) {
    const double room = std::floor(k * cost.per_packet - cost.lead) + 0.5;  // whole entries are drawn
    if (room > mean + reach) break;
    packets += 0.5 * std::erfc((room - mean) / (deviation * std::sqrt(2.0)));
  }
  return cost.c0 + cost.c1 * packets;
}

namespace {

/// tau of T expected entries, fewer than there are: certain ones reach it, tau = (sum of the others) / (T - certain).
template <class S>
double threshold_for(Profile<S>& profile, double entries, bool exactly) {
  const Tally& all = profile.all();
  const auto tau_with = [&](const Tally& certain) {
    return entries > certain.count ? (all.sum - certain.sum) / (entries - certain.count) : HUGE_VAL;
  };
  // The last bin edge at which those above it are certain: where they are, tau is not above the edge.
  size_t low = 0, high = profile.kBins - 1;
  while (low < high) {
    const size_t middle = (low + high + 1) / 2;
    if (tau_with(profile.above(middle)) <= profile.upper(middle))
      low = middle;
    else
      high = middle - 1;
  }
  Tally certain = profile.above(low);
  if (exactly)
    take(
        profile.members(low, low + 1), [&](double y) { return y * (entries - certain.count) >= all.sum - certain.sum; },
        certain);
  return tau_with(certain);
}

}  // namespace

template <class S>
double best_packets_threshold(Profile<S>& profile, const EntryCost& cost) {
  const Tally& all = profile.all();
  if (all.count == 0) return 0;
  struct Value {
    double ratio, deviation;
  };
  const auto value_at = [&](double entries, double packets) {  // packets: 0: as expected
    const double tau = entries < all.count ? threshold_for(profile, entries, /*exactly=*/false) : 0.0;
    const Draw draw = draw_at(profile, tau, /*exactly=*/false);
    const double price = packets > 0 ? cost.c0 + cost.c1 * packets : expected_cost(cost, entries, draw.variance);
    return Value{1 / (draw.moment * price), std::sqrt(draw.variance)};
  };
  Packets packets(cost, all.count, /*whole=*/false);
  double middle = 0, value = -HUGE_VAL;
  while (const double entries = packets.next())
    if (const double v = value_at(entries, packets.packets()).ratio; v > value) value = v, middle = packets.packets();
  double best = value_at(all.count, 0).ratio, chosen = all.count;
  for (double k = std::max(1.0, middle - 1); k <= middle + 1; ++k) {
    const double room = std::min(all.count, packets.room_of(k));
    if (room <= 0) continue;
    const double deviation = value_at(room, 0).deviation;
    for (const double less : kDeviations) {
      const double entries = room - less * deviation;
      if (entries <= 0) break;
      if (const double v = value_at(entries, 0).ratio; v > best) best = v, chosen = entries;
    }
  }
  return chosen < all.count ? threshold_for(profile, chosen, /*exactly=*/true) / profile.unit() : 0.0;
}

#define TSQ_INSTANTIATE(S)                                                         \
  template Cut best_cut(Profile<S>&, double, double);                              \
  template uint64_t count_above(std::span<const S>, double);                       \
  template uint64_t best_packets(Profile<S>&, const EntryCost&, const Objective&); \
  template uint64_t best_signs(Profile<S>&, const EntryCost&, const Objective&);   \
  template double best_packets_threshold(Profile<S>&, const EntryCost&);           \
  template Draw draw_at(Profile<S>&, double, bool);
TSQ_INSTANTIATE(float)
TSQ_INSTANTIATE(double)
#undef TSQ_INSTANTIATE

}  // namespace tsq
