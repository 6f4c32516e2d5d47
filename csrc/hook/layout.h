// Where the parts of one bucket lie: in the bucket's buffer and in the messages. A pure function of the parameters in
// the bucket.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mechanisms/mechanism.h"

namespace tsq {

/// A parameter as the hook knows it. Its number is its position in the model's order at attach.
struct Parameter {
  std::string name;
  size_t numel = 0;
  DType dtype = DType::kFloat32;
  MechanismPtr up;    ///< worker -> owner
  MechanismPtr down;  ///< owner -> everybody (sharded exchange)
  /// Levels 1, 2, ... of a ladder, (up, down), for a policy to choose from; level 0 is the pair above. They share its
  /// state. A parameter without them travels at level 0 always.
  std::vector<std::pair<MechanismPtr, MechanismPtr>> coarser = {};

  const Mechanism& mechanism(size_t level, bool owner) const {
    level = std::min(level, coarser.size());
    if (level == 0) return owner ? *down : *up;
    return owner ? *coarser[level - 1].second : *coarser[level - 1].first;
  }

  /// Slices of it begin at multiples of this in both directions and at every level.
  size_t granularity() const {
    size_t out = std::max({up->granularity(), down->granularity(), size_t{256}});
    for (const auto& [u, d] : coarser) out = std::max({out, u->granularity(), d->granularity()});
    return out;
  }
};

/// Throws ArgumentError unless the levels of every parameter's ladder can take turns: the same state, the same parts,
/// no momentum (where a bucket travels dense, nothing would be smoothed).
void check_ladders(std::span<const Parameter> parameters);

/// A slice of a parameter, where it lies in the bucket's buffer (in elements), and its first section in the messages
/// up and down.
struct Piece {
  uint32_t parameter = 0;
  size_t begin = 0;
  size_t numel = 0;
  size_t at = 0;
  size_t up_section = 0;
  size_t down_section = 0;
};

/// The pieces that go into one message, and its number of sections in each direction.
struct Shard {
  std::vector<Piece> pieces;
  size_t numel = 0;
  size_t up_sections = 0;
  size_t down_sections = 0;
};

struct Layout {
  std::vector<uint32_t> ids;  ///< the bucket's parameters in buffer order
  size_t numel = 0;
  Shard whole;                ///< everything in one message: all_gather
  std::vector<Shard> shards;  ///< by owner: sharded
  /// all_gather of a large bucket whose parameters can all be cut: everything, in several messages that follow each
  /// other. Empty: in one. See Note [Parcels] in hook/parcel_stream.h.
  std::vector<Shard> parcels;
};

/// Which buckets travel in parcels, and of what expected length.
struct ParcelRule {
  size_t least = size_t{1} << 20;        ///< elements of a bucket: what is encoded sooner than this needs no company
  size_t most_bytes = size_t{64} << 20;  ///< of the bucket: as much memory again is needed
  double first = 32 << 10,
         largest = 256 << 10;  ///< bytes; they grow from one to the other, so that the first leave soon
};

/// O(parameters * world).
Layout make_layout(std::span<const Parameter> parameters, std::span<const uint32_t> ids, int world,
                   const ParcelRule& rule = {});

}  // namespace tsq
