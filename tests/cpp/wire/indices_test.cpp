// Index coding: round trips at every density, its size, and that no bytes get past the checks and do harm.
#include "wire/indices.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "common/error.h"

namespace tsq::wire {
namespace {

using Indices = std::vector<uint32_t>;
using Octets = std::vector<uint8_t>;

constexpr uint64_t kSizes[] = {0, 1, 2, 7, 8, 9, 255, 16383, 16384, 16385, 40000, 200000};

Octets encoded(const Indices& indices, uint64_t n) {
  Octets out(max_index_bytes(n, indices.size()));
  const size_t bytes = encode_indices(indices, n, out.data());
  EXPECT_LE(bytes, out.size()) << "n " << n << " count " << indices.size();
  out.resize(bytes);
  out.shrink_to_fit();  // exact memory: ASan sees a read past it
  return out;
}

Indices decoded(const Octets& in, uint64_t n) {
  Indices out;
  uint16_t positions[kSegment];
  IndexReader reader(in, n);
  for (uint64_t s = 0; s < segment_count(n); ++s) {
    const size_t count = reader.next(positions);
    for (size_t j = 0; j < count; ++j) out.push_back(static_cast<uint32_t>(s * kSegment + positions[j]));
  }
  EXPECT_EQ(reader.total(), out.size());
  return out;
}

/// Bernoulli(density); clustered: runs of dense stretches among empty ones, the same density on average.
Indices random_indices(uint64_t n, double density, bool clustered, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  Indices out;
  double here = density;
  for (uint64_t i = 0; i < n; ++i) {
    if (clustered && i % 500 == 0) here = uniform(random) < 0.1 ? std::min(1.0, 9.5 * density) : 0.05 * density;
    if (here >= 1 || uniform(random) < here) out.push_back(static_cast<uint32_t>(i));
  }
  return out;
}

void expect_round_trip(const Indices& indices, uint64_t n) {
  const Octets bytes = encoded(indices, n);
  const IndexExtent extent = check_indices(bytes, n);
  ASSERT_EQ(extent.count, indices.size());
  ASSERT_EQ(extent.bytes, bytes.size());
  ASSERT_EQ(decoded(bytes, n), indices) << "n " << n;
}

TEST(Indices, RoundTripAtEveryDensity) {
  for (const uint64_t n : kSizes)
    for (const double density : {0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0})
      for (const bool clustered : {false, true}) expect_round_trip(random_indices(n, density, clustered, n), n);
}

TEST(Indices, RoundTripOfSingleAndRunsOfIndices) {
  for (const uint64_t n : kSizes) {
    for (uint64_t i = 0; i < n; i += 1 + n / 50) {
      expect_round_trip({static_cast<uint32_t>(i)}, n);
      Indices front, back;
      for (uint64_t j = 0; j <= i; ++j)
        front.push_back(static_cast<uint32_t>(j)), back.push_back(static_cast<uint32_t>(n - 1 - i + j));
      expect_round_trip(front, n);
      expect_round_trip(back, n);
    }
  }
}

TEST(Indices, EmptySetIsAllZeroBytes) {
  for (const uint64_t n : kSizes) EXPECT_EQ(encoded({}, n), Octets(2 * segment_count(n)));
}

TEST(Indices, BitsPerIndexAreNearTheEntropy) {
  constexpr uint64_t kN = 2'000'000;
  for (const bool clustered : {false, true}) {
    for (const double density : {0.001, 0.01, 0.05, 0.1, 0.3}) {
      const Indices indices = random_indices(kN, density, clustered, 3);
      const double count = static_cast<double>(indices.size()), p = count / kN;
      const double bits = 8 * static_cast<double>(encoded(indices, kN).size()) / count;
      const double entropy = -(p * std::log2(p) + (1 - p) * std::log2(1 - p)) / p;
      std::printf("%s %5.2f %%: %.3f bits per index (entropy of independent ones %.3f)\n",
                  clustered ? "clustered" : "uniform  ", 100 * p, bits, entropy);
      if (density == 0.01 && !clustered) {
        EXPECT_LE(bits, 8.8);
      }
      EXPECT_LE(bits, entropy + (density < 0.01 ? 2.2 : 0.8));
    }
  }
}

/// Checks and, if that passes, reads; true if legal.
bool accepts(const Octets& bytes, uint64_t n) {
  try {
    check_indices(bytes, n);
  } catch (const WireError&) {
    return false;
  }
  const Indices indices = decoded(bytes, n);
  for (size_t j = 0; j < indices.size(); ++j) {
    EXPECT_LT(indices[j], n);
    EXPECT_TRUE(j == 0 || indices[j - 1] < indices[j]);
  }
  return true;
}

TEST(Indices, NoHostileBytesGetThrough) {
  std::mt19937_64 random(7);
  size_t accepted = 0;
  for (int trial = 0; trial < 20'000; ++trial) {
    const uint64_t n = std::array<uint64_t, 5>{1, 50, 1000, 16390, 33000}[random() % 5];
    Octets bytes;
    if (trial % 2) {
      bytes = encoded(random_indices(n, std::array{0.002, 0.05, 0.4}[random() % 3], false, random()), n);
      for (size_t flips = 1 + random() % 3; flips > 0; --flips)
        bytes[random() % bytes.size()] ^= static_cast<uint8_t>(1u << random() % 8);
      if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 2));
    } else {
      bytes.resize(random() % 300);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      for (size_t s = 0; s < segment_count(n) && bytes.size() > 2 * s + 1; ++s) bytes[2 * s + 1] &= 0x80;
    }
    bytes.shrink_to_fit();
    accepted += accepts(bytes, n);
  }
  EXPECT_LT(accepted, 15'000u);
}

TEST(Indices, EveryFlippedBitChangesTheSetOrIsRejected) {
  for (const double density : {0.02, 0.4}) {
    const Indices indices = random_indices(3001, density, false, 5);
    const Octets bytes = encoded(indices, 3001);
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      Octets other = bytes;
      other[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
      if (accepts(other, 3001)) {
        ASSERT_NE(decoded(other, 3001), indices) << bit;
      }
    }
  }
}

TEST(Indices, HugeNumbersOfElementsAreRejectedByTheirHeads) {
  const Octets zeros(100);
  for (const uint64_t n : {uint64_t{51} * kSegment, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX})
    EXPECT_THROW(check_indices(zeros, n), WireError);
  EXPECT_NO_THROW(check_indices(zeros, uint64_t{50} * kSegment));
}

}  // namespace
}  // namespace tsq::wire
