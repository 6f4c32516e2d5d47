// Philox4x32 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the key of a
// stream. A counter-based generator: the dither of an element is a pure function of where the element stands.
#pragma once

#include <array>
#include <cstdint>

namespace tsq {

struct PhiloxKey {
  uint32_t low = 0;
  uint32_t high = 0;
};

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;

/// Four pseudo-random words for `counter` under `key`. Ten rounds are what cuRAND and torch use.
template <int kRounds = 10>
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, PhiloxKey key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{counter[0]} * kPhiloxMultiplier0;
    const uint64_t product1 = uint64_t{counter[2]} * kPhiloxMultiplier1;
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key.low, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key.high, static_cast<uint32_t>(product0)};
    key.low += kPhiloxWeyl0;
    key.high += kPhiloxWeyl1;
  }
  return counter;
}

/// Who draws: every random number is a function of these and of the element's place in its parameter.
struct StreamId {
  uint64_t seed = 0;
  uint64_t step = 0;
  uint32_t rank = 0;
  bool averaged = false;  ///< the owner's second compression, of the average; its dither must not repeat the worker's
  uint64_t parameter = 0;
  bool shared = false;  ///< drawn alike on every rank: shared coins, permutations and index sets (rank is ignored)
};

/// SplitMix64's finalizer of (h xor field): a bijection of each.
constexpr uint64_t mixed(uint64_t h, uint64_t field) {
  uint64_t z = (h ^ field) + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// The Philox key of a stream: `mixed` chained over the identity.
constexpr PhiloxKey philox_key(const StreamId& id) {
  uint64_t h = 0;
  const uint64_t fields[4] = {id.seed, id.step,
                              (id.shared ? uint64_t{1} << 33 : id.rank) + (uint64_t{id.averaged} << 32), id.parameter};
  for (const uint64_t field : fields) h = mixed(h, field);
  return {static_cast<uint32_t>(h), static_cast<uint32_t>(h >> 32)};
}

}  // namespace tsq
