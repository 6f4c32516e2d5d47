#include "common/checksum.h"

#include <bit>

namespace tsq {

namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;
constexpr size_t kStripe = 32;

constexpr uint64_t advance(uint64_t sum, uint64_t word) { return std::rotl(sum + word * kPrime2, 31) * kPrime1; }
constexpr uint64_t merge(uint64_t hash, uint64_t sum) { return (hash ^ advance(0, sum)) * kPrime1 + kPrime4; }

}  // namespace

uint64_t checksum(Bytes bytes, uint64_t seed) {
  const uint8_t *p = bytes.data(), *const end = p + bytes.size();
  uint64_t hash = seed + kPrime5;
  // 1. Whole stripes: word l of each goes into sum l.
  if (bytes.size() >= kStripe) {
    uint64_t a = seed + kPrime1 + kPrime2, b = seed + kPrime2, c = seed, d = seed - kPrime1;
    for (; static_cast<size_t>(end - p) >= kStripe; p += kStripe) {
      a = advance(a, load<uint64_t>(p));
      b = advance(b, load<uint64_t>(p + 8));
      c = advance(c, load<uint64_t>(p + 16));
      d = advance(d, load<uint64_t>(p + 24));
    }
    hash = std::rotl(a, 1) + std::rotl(b, 7) + std::rotl(c, 12) + std::rotl(d, 18);
    for (const uint64_t sum : {a, b, c, d}) hash = merge(hash, sum);
  }
  hash += bytes.size();
  // 2. What is left: words of 8, 4 and 1 bytes.
  for (; end - p >= 8; p += 8) hash = std::rotl(hash ^ advance(0, load<uint64_t>(p)), 27) * kPrime1 + kPrime4;
  if (end - p >= 4) {
    hash = std::rotl(hash ^ load<uint32_t>(p) * kPrime1, 23) * kPrime2 + kPrime3;
    p += 4;
  }
  for (; p < end; ++p) hash = std::rotl(hash ^ *p * kPrime5, 11) * kPrime1;
  // 3. Every bit of the sum reaches every bit of the result.
  hash = (hash ^ hash >> 33) * kPrime2;
  hash = (hash ^ hash >> 29) * kPrime3;
  return hash ^ hash >> 32;
}

}  // namespace tsq
