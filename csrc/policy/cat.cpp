#include "policy/cat.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/error.h"
#include "wire/indices.h"
#include "wire/message.h"

namespace tsq {

namespace {

constexpr int kRounds = 2;  // the index code's length depends on the choice: it is made, and made again

/// What pick(entries) comes to, told in every round what it said in the one before.
template <class Pick>
uint64_t chosen(Pick pick) {
  uint64_t entries = 0;
  for (int round = 0; round < kRounds; ++round) {
    entries = pick(static_cast<double>(entries));
    if (entries == 0) break;
  }
  return entries;
}

}  // namespace

EntryCost CatChooser::cost_at(const EntryCode& code, double entries) const {
  double index = static_cast<double>(std::bit_width(std::max<uint64_t>(code.n, 2) - 1));
  const double heads = 8.0 * static_cast<double>(wire::max_index_bytes(code.n, 0));
  if (const double count = std::ceil(entries); count >= 1)
    index = (8.0 * static_cast<double>(wire::max_index_bytes(code.n, static_cast<uint64_t>(count))) - heads) / count;
  const double header = 8.0 * (static_cast<double>(wire::kHeaderBytes) * config_.share + wire::kSectionBytes);
  EntryCost cost = config_.cost->of({code.value_bits + index, code.scale_bits, header + heads});
  cost.c0 *= config_.share;
  return cost;
}

double CatChooser::price_of_entry(const EntryCost& cost) const {
  return *config_.price * (cost.affine() ? cost.c1 : cost.c1 / cost.per_packet);
}

template <class S>
Objective CatChooser::objective_of(const Profile<S>& profile, const EntryCost& cost, double gain) const {
  if (config_.price) return {price_of_entry(cost) * profile.unit() * profile.unit()};
  if (config_.horizon == Horizon::kStep) return {};
  return {gain / cost(profile.all().count)};
}

template <class S>
uint64_t CatChooser::pick_largest(std::span<const S> g, const EntryCode& code) const {
  if (config_.price)
    return chosen([&](double entries) { return count_above(g, std::sqrt(price_of_entry(cost_at(code, entries)))); });
  Profile<S> profile(g);
  return chosen([&](double entries) {
    const EntryCost cost = cost_at(code, entries);
    const Objective objective = objective_of(profile, cost, profile.all().squares);
    uint64_t best = 0;
    if (!cost.affine())
      best = best_packets(profile, cost, objective);
    else if (!objective.price)
      best = best_cut(profile, cost.c0, cost.c1).kept;
    else
      best = count_above(g, std::sqrt(*objective.price * cost.c1) / profile.unit());
    return best == 0 ? profile.nonzeros() : best;  // of a run: everything, where nothing is better
  });
}

template <class S>
uint64_t CatChooser::pick_signs(std::span<const S> g, const EntryCode& code) const {
  Profile<S> profile(g);
  if (profile.nonzeros() == 0) return 0;
  const double sum = profile.all().sum, everything = sum * sum / profile.all().count;
  return chosen([&](double entries) {
    const EntryCost cost = cost_at(code, entries);
    const Objective objective = objective_of(profile, cost, everything);
    if (config_.price) return best_signs(profile, {.c0 = 0, .c1 = 1}, objective);
    const uint64_t best = best_signs(profile, cost, objective);
    return best == 0 ? profile.nonzeros() : best;
  });
}

template <class S>
double CatChooser::pick_threshold(std::span<const S> g, const EntryCode& code) const {
  Profile<S> profile(g);
  double tau = 0, entries = 0;
  for (int round = 0; round < kRounds; ++round) {
    const EntryCost cost = cost_at(code, entries);
    if (config_.price)
      tau = std::sqrt(price_of_entry(cost));
    else if (!cost.affine())
      tau = best_packets_threshold(profile, cost);
    else
      tau = best_cut(profile, cost.c0, cost.c1).tau;
    entries = draw_at(profile, tau * profile.unit()).entries;
    if (entries == 0) break;
  }
  return tau;
}

double CatChooser::utility(double gain, uint64_t entries, double payload_bits) const {
  if (entries == 0) return 0;
  const auto count = static_cast<double>(entries);
  const double header = 8.0 * (static_cast<double>(wire::kHeaderBytes) * config_.share + wire::kSectionBytes);
  EntryCost cost = config_.cost->of({payload_bits / count, 0, header});
  cost.c0 *= config_.share;
  return config_.price ? gain - *config_.price * cost(count) : gain / cost(count);
}

std::span<const double> CatChooser::weights(uint64_t offset, uint64_t n) const {
  if (!config_.weights) return {};
  return std::span<const double>(*config_.weights).subspan(offset, n);
}

void check_weights(const std::string& name, const Weights& weights) {
  if (!weights) return;
  for (const double w : *weights)
    if (!(std::isfinite(w) && w > 0)) throw ArgumentError(concat(name, ": expected finite numbers above 0, got ", w));
}

Cat::Cat(Config config) : config_(std::move(config)) {
  if (!config_.cost) throw ArgumentError("CAT: cost: expected a cost model, got none");
  if (config_.budget && !(std::isfinite(*config_.budget) && *config_.budget > 0))
    throw ArgumentError(concat("CAT: budget: expected a finite number above 0, got ", *config_.budget));
  if (!(config_.speed > 0 && config_.speed <= 1))
    throw ArgumentError(concat("CAT: speed: expected in (0, 1], got ", config_.speed));
  check_weights("CAT: weights", config_.weights);
}

CatChooser Cat::chooser(double share, double price, const Weights& weights) const {
  CatChooser::Config config{.cost = config_.cost->fixed(config_.cost),
                            .share = share,
                            .price = {},
                            .weights = weights ? weights : config_.weights,
                            .horizon = config_.horizon};
  if (config_.budget) config.price = price;
  return CatChooser(std::move(config));
}

double Cat::next_price(double price, double spent, double energy, double share) const {
  if (!config_.budget) return 0;
  const double budget = *config_.budget;
  if (price == 0) return spent > 0 && std::isfinite(energy) ? energy / (share * budget) : 0;
  return price * std::exp(std::min(1.0, config_.speed * (spent / budget - share)));
}

void Cat::observe(double bytes, double seconds) const {
  if (MeasuredCost* const cost = measured()) cost->observe(bytes, seconds);
}

}  // namespace tsq
