// Bytes with a checksum behind them: what was altered on the way is found where it arrives, and its sender named. Every
// collective but the all-reduce of gradients themselves travels so (docs/wire_format.md, "In transport").
#pragma once

#include <vector>

#include "exchange/exchange.h"

namespace tsq {

constexpr size_t kSealBytes = 8;

/// Writes the seal of the first `length` bytes of `frame` behind them; the frame has kSealBytes more. `sender`: a rank.
void seal(MutableBytes frame, size_t length, int sender);

/// The first `length` bytes of a frame that came from `sender`. Throws WireError naming it unless their seal is behind
/// them.
Bytes open_sealed(Bytes frame, size_t length, int sender);

enum class Counted : uint8_t { kNo, kYes };

/// `mine` of every rank, in rank order, all of one size. Collective, with copies: for what is small or rare.
std::vector<uint8_t> all_gather_sealed(Exchange& exchange, Bytes mine, Counted counted);

}  // namespace tsq
