#include "hook/layout.h"

#include <cmath>

#include "common/error.h"
#include "exchange/exchange.h"
#include "hook/sharding.h"

namespace tsq {

namespace {

void add_piece(Shard& shard, const Parameter& parameter, Piece piece) {
  if (piece.numel == 0) return;
  piece.up_section = shard.up_sections;
  piece.down_section = shard.down_sections;
  shard.pieces.push_back(piece);
  shard.numel += piece.numel;
  shard.up_sections += parameter.up->parts();
  shard.down_sections += parameter.down->parts();
}

constexpr size_t kUnit = 65536;             // parcels are cut at multiples of this
constexpr double kLongestParcel = 1 << 20;  // elements

bool can_be_cut(const Parameter& parameter) {
  for (size_t level = 0; level <= parameter.coarser.size(); ++level) {
    const Mechanism& m = parameter.mechanism(level, /*owner=*/false);
    if (!m.divisible() || kUnit % m.granularity() != 0) return false;
  }
  return true;
}

/// Expected bytes of the k-th parcel.
double parcel_bytes(size_t k, const ParcelRule& rule) {
  return std::min(rule.largest, std::ldexp(rule.first, k < 2 ? 0 : static_cast<int>(k) - 1));
}

/// Elements of a piece that go into a parcel with room for `fits` of them.
size_t part_of(size_t left, double fits) {
  const size_t n = std::max(kUnit, static_cast<size_t>(std::max(fits, 0.0)) / kUnit * kUnit);
  return n + kUnit / 2 > left ? left : n;
}

std::vector<Shard> cut_into_parcels(const Shard& whole, std::span<const Parameter> parameters, const ParcelRule& rule) {
  std::vector<Shard> parcels(1);
  double bytes = 0;  // of the last one
  for (const Piece& piece : whole.pieces) {
    const Parameter& p = parameters[piece.parameter];
    if (!can_be_cut(p)) return {};
    const double each = p.up->expected_bits(piece.numel, p.dtype) / 8 / static_cast<double>(piece.numel);
    for (size_t begin = 0; begin < piece.numel;) {
      double most = parcel_bytes(parcels.size() - 1, rule), elements = static_cast<double>(parcels.back().numel);
      if (bytes > 0.75 * most || elements > 0.75 * kLongestParcel) {
        parcels.emplace_back();
        most = parcel_bytes(parcels.size() - 1, rule), bytes = elements = 0;
      }
      const size_t n = part_of(piece.numel - begin, std::min((most - bytes) / each, kLongestParcel - elements));
      add_piece(parcels.back(), p, {piece.parameter, begin, n, piece.at + begin});
      bytes += each * static_cast<double>(n);
      begin += n;
    }
  }
  return parcels.size() > Exchange::kUnderWay ? parcels : std::vector<Shard>();
}

}  // namespace

void check_ladders(std::span<const Parameter> parameters) {
  for (const Parameter& p : parameters) {
    for (size_t level = 0; level <= p.coarser.size(); ++level)
      for (const bool owner : {false, true}) {
        const Mechanism &first = p.mechanism(0, owner), &m = p.mechanism(level, owner);
        if (m.state_names() != first.state_names() || m.receiver_names() != first.receiver_names() ||
            m.parts() != first.parts() || m.starts_dense() != first.starts_dense())
          throw ArgumentError(concat("NeverSlower: ladder: expected specs that share their state, got ", m.spec(),
                                     " beside ", first.spec()));
        const auto& names = m.state_names();
        if (std::find(names.begin(), names.end(), "momentum") != names.end())
          throw ArgumentError(concat("NeverSlower: expected mechanisms without momentum, which a dense step would ",
                                     "leave out, got ", m.spec(), " for ", p.name));
      }
  }
}

Layout make_layout(std::span<const Parameter> parameters, std::span<const uint32_t> ids, int world,
                   const ParcelRule& rule) {
  Layout layout;
  layout.ids.assign(ids.begin(), ids.end());
  layout.shards.resize(static_cast<size_t>(world));
  for (const uint32_t id : ids) {
    const Parameter& parameter = parameters[id];
    add_piece(layout.whole, parameter, {id, 0, parameter.numel, layout.numel});
    for (size_t r = 0; r < layout.shards.size(); ++r) {
      const Range range = owned_range(parameter.numel, parameter.granularity(), id, static_cast<uint32_t>(r),
                                      static_cast<uint32_t>(world));
      add_piece(layout.shards[r], parameter, {id, range.begin, range.size(), layout.numel + range.begin});
    }
    layout.numel += parameter.numel;
  }
  const size_t bytes = ids.empty() ? 0 : layout.numel * size_of(parameters[ids[0]].dtype);
  if (layout.numel >= rule.least && bytes <= rule.most_bytes)
    layout.parcels = cut_into_parcels(layout.whole, parameters, rule);
  return layout;
}

}  // namespace tsq
