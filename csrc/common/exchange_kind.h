// How a bucket travels: what hooks, policies and exchanges call by one name.
#pragma once

#include <cstdint>

namespace tsq {

enum class ExchangeKind : uint8_t { kDense, kAllGather, kSharded };
constexpr int kExchangeKinds = 3;

/// "dense", "all_gather", "sharded".
constexpr const char* name_of(ExchangeKind kind) {
  return kind == ExchangeKind::kDense ? "dense" : kind == ExchangeKind::kAllGather ? "all_gather" : "sharded";
}

}  // namespace tsq
