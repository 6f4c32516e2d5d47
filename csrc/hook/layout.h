// Where the parts of one bucket lie: in the bucket's buffer and in the messages. A pure function of the parameters in
// the bucket.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
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

  /// Slices of it begin at multiples of this in both directions.
  size_t granularity() const { return std::max({up->granularity(), down->granularity(), size_t{256}}); }
};

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
};

/// O(parameters * world).
Layout make_layout(std::span<const Parameter> parameters, std::span<const uint32_t> ids, int world);

}  // namespace tsq
