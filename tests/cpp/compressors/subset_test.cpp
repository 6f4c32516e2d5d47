// The sets of coordinates that a key draws: uniform subsets, shares of a permutation.
#include "compressors/subset.h"

#include <gtest/gtest.h>

#include <map>

#include "compressors/registry.h"
#include "compressors/topk_inputs.h"

namespace tsq {
namespace {

using Indices = std::vector<uint32_t>;

Indices subset(uint64_t key, uint64_t n, uint64_t count) {
  Indices out{77};
  draw_subset(key, n, count, out);
  return out;
}

Indices share(uint64_t key, uint64_t n, uint32_t rank, uint32_t world) {
  Indices out{77};
  draw_share(key, n, rank, world, out);
  return out;
}

TEST(Subset, HasTheSizeAndAscends) {
  for (const uint64_t n : {1, 2, 63, 64, 65, 1000}) {
    for (const uint64_t count : {uint64_t{0}, uint64_t{1}, n / 3, n / 2, n / 2 + 1, n - 1, n}) {
      if (count > n) continue;
      const Indices drawn = subset(n * 31 + count, n, count);
      ASSERT_EQ(drawn.size(), count);
      for (size_t i = 0; i < count; ++i) {
        ASSERT_LT(drawn[i], n);
        if (i) {
          ASSERT_LT(drawn[i - 1], drawn[i]);
        }
      }
    }
  }
  EXPECT_TRUE(subset(1, 0, 0).empty());
}

// chi^2 over all subsets: 99.99 % of the distribution with 19 or 20 degrees of freedom lies below 54.
TEST(Subset, IsUniformAmongAllSubsets) {
  for (const auto& [n, count, subsets] : {std::array<uint64_t, 3>{6, 3, 20}, {7, 5, 21}, {7, 2, 21}}) {
    std::map<Indices, double> seen;
    const int draws = 40'000;
    for (uint64_t t = 0; t < draws; ++t) ++seen[subset(subset_key({1, 2}, t), n, count)];
    ASSERT_EQ(seen.size(), subsets);
    const double expected = double(draws) / double(subsets);
    double chi = 0;
    for (const auto& [set, times] : seen) chi += (times - expected) * (times - expected) / expected;
    EXPECT_LT(chi, 54.0) << n << " " << count;
  }
}

TEST(Share, SharesOutEveryCoordinateOnceWithUniformMarginals) {
  for (const uint64_t n : {1, 3, 8, 100, 1001}) {
    for (const uint32_t world : {1u, 2u, 3u, 8u, 150u}) {
      std::vector<int> owners(n, 0);
      for (uint32_t r = 0; r < world; ++r) {
        const Indices mine = share(n, n, r, world);
        ASSERT_EQ(mine.size(), share_size(n, n, r, world));
        ASSERT_TRUE(mine.size() == n / world || mine.size() == n / world + 1);
        for (const uint32_t i : mine) ++owners[i];
      }
      for (const int count : owners) ASSERT_EQ(count, 1);
    }
  }
  const int draws = 20'000, n = 10;  // the last group is short
  std::array<int, n> times{};
  for (uint64_t t = 0; t < draws; ++t)
    for (const uint32_t i : share(subset_key({3, 4}, t), n, 2, 4)) ++times[i];
  for (const int count : times) EXPECT_NEAR(count, draws / 4, 5 * std::sqrt(draws * 0.25 * 0.75));
}

TEST(Subset, SlicesAndRanksDrawTheirOwnUnlessShared) {
  const test::Vector x(DType::kFloat32, 400);
  for (size_t i = 0; i < 400; ++i) test::set(x.view(), i, 1.0);
  const auto head = [&](const char* spec, uint32_t rank, uint64_t offset) {
    EncodeKey key = encode_key({.seed = 1, .step = 2, .rank = rank}, offset, 4);
    const test::Octets payload = test::encoded(*parse_compressor(spec), x, key);
    return load<uint64_t>(payload.data());
  };
  for (const char* spec : {"RandK(k=50)", "RandK(k=50, shared=True)", "PermK()"}) {
    EXPECT_NE(head(spec, 0, 0), head(spec, 0, 256)) << spec;
    EXPECT_EQ(head(spec, 0, 0) == head(spec, 1, 0), !test::contains(spec, "k=50)")) << spec;
  }
}

// A permutation's payload with a rank that is not one, a count above n, and a head without coordinates.
TEST(Subset, RejectsImpossibleHeads) {
  const auto payload = [](uint64_t word, size_t values) {
    test::Octets out(kSubsetHeadBytes + 4 * values);
    store<uint64_t>(out.data() + 8, word);
    return out;
  };
  const CompressorPtr drawn = parse_compressor("RandK(ratio=1.0)"), permuted = parse_compressor("PermK()");
  EXPECT_NO_THROW(drawn->validate(payload(5, 5), 5, DType::kFloat32));
  EXPECT_THROW(drawn->validate(payload(6, 6), 5, DType::kFloat32), WireError);
  EXPECT_THROW(drawn->validate(payload(4, 5), 5, DType::kFloat32), WireError);
  EXPECT_THROW(parse_compressor("RandK(k=4)")->validate(payload(5, 5), 5, DType::kFloat32), WireError);
  EXPECT_NO_THROW(permuted->validate(payload(uint64_t{1} << 32, 5), 5, DType::kFloat32));
  EXPECT_THROW(permuted->validate(payload(uint64_t{1} << 32 | 1, 5), 5, DType::kFloat32), WireError);
  EXPECT_THROW(permuted->validate(payload(7, 5), 5, DType::kFloat32), WireError);
  test::Octets bad = payload(0, 2);
  EXPECT_NO_THROW(drawn->validate(bad, 5, DType::kFloat32));
  EXPECT_THROW(drawn->validate(payload(0, 6), 5, DType::kFloat32), WireError);
  bad[3] = 1;
  EXPECT_THROW(drawn->validate(bad, 5, DType::kFloat32), WireError);
}

}  // namespace
}  // namespace tsq
