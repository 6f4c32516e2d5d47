#include "hook/layout.h"

#include "common/error.h"
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

Layout make_layout(std::span<const Parameter> parameters, std::span<const uint32_t> ids, int world) {
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
  return layout;
}

}  // namespace tsq
