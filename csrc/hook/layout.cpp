#include "hook/layout.h"

#include "hook/sharding.h"
#include "wire/message.h"

namespace tsq {

namespace {

void add_piece(Shard& shard, const Parameter& parameter, const Piece& piece, DType dtype) {
  if (piece.numel == 0) return;
  shard.pieces.push_back(piece);
  shard.numel += piece.numel;
  shard.up_bytes += wire::kSectionBytes + parameter.up->compressor().max_bytes(piece.numel, dtype);
  shard.down_bytes += wire::kSectionBytes + parameter.down->compressor().max_bytes(piece.numel, dtype);
}

}  // namespace

Layout make_layout(std::span<const Parameter> parameters, std::span<const uint32_t> ids, DType dtype, int world) {
  Layout layout;
  layout.ids.assign(ids.begin(), ids.end());
  layout.shards.resize(static_cast<size_t>(world));
  layout.whole.up_bytes = layout.whole.down_bytes = wire::kHeaderBytes;
  for (Shard& shard : layout.shards) shard.up_bytes = shard.down_bytes = wire::kHeaderBytes;
  for (const uint32_t id : ids) {
    const Parameter& parameter = parameters[id];
    add_piece(layout.whole, parameter, {id, 0, parameter.numel, layout.numel}, dtype);
    for (size_t r = 0; r < layout.shards.size(); ++r) {
      const Range range = owned_range(parameter.numel, parameter.granularity(), id, static_cast<uint32_t>(r),
                                      static_cast<uint32_t>(world));
      add_piece(layout.shards[r], parameter, {id, range.begin, range.size(), layout.numel + range.begin}, dtype);
    }
    layout.numel += parameter.numel;
  }
  return layout;
}

}  // namespace tsq
