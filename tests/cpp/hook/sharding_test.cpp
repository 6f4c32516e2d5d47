// Ownership: every element has exactly one owner, parts are aligned and even, and messages are laid out accordingly.
#include "hook/sharding.h"

#include <gtest/gtest.h>

#include "hook/layout.h"
#include "mechanisms/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

TEST(OwnedRange, PartitionsEveryParameterIntoAlignedEvenParts) {
  for (const size_t granularity : {256, 512, 4096}) {
    for (const size_t n :
         {size_t{0}, size_t{1}, size_t{255}, size_t{256}, size_t{257}, size_t{1000}, size_t{4097}, size_t{100'003}}) {
      for (uint32_t world = 1; world <= 9; ++world) {
        for (uint32_t id = 0; id < 12; ++id) {
          std::vector<Range> ranges;
          for (uint32_t rank = 0; rank < world; ++rank) ranges.push_back(owned_range(n, granularity, id, rank, world));
          size_t least = n, most = 0;
          for (const Range& r : ranges) {
            ASSERT_LE(r.begin, r.end);
            ASSERT_TRUE(r.begin % granularity == 0 || r.begin == n);
            const size_t granules = (r.size() + granularity - 1) / granularity;
            least = std::min(least, granules), most = std::max(most, granules);
          }
          ASSERT_LE(most, least + 1);
          std::ranges::sort(ranges, {}, [](const Range& r) { return std::pair(r.begin, r.end); });
          size_t at = 0;
          for (const Range& r : ranges) {
            ASSERT_EQ(r.begin, at);
            at = r.end;
          }
          ASSERT_EQ(at, n);
        }
      }
    }
  }
}

TEST(OwnedRange, DealsSmallParametersToAllRanks) {
  for (const uint32_t world : {2u, 3u, 4u, 7u}) {
    std::vector<size_t> load(world);
    for (uint32_t id = 0; id < 10 * world; ++id)
      for (uint32_t rank = 0; rank < world; ++rank) load[rank] += owned_range(100, 256, id, rank, world).size();
    for (const size_t elements : load) EXPECT_EQ(elements, 1000u);
  }
}

TEST(Layout, PutsEveryElementOnceIntoTheWholeAndOnceIntoAShard) {
  std::vector<Parameter> parameters;
  for (const size_t n : {5, 0, 3000, 257, 9000}) {
    const MechanismPtr up = parse_mechanism(n > 1000 ? "Quantizer(bits=4, block=512)" : "Identity()");
    parameters.push_back({concat("p", n), n, DType::kFloat32, up, parse_mechanism("Quantizer(bits=8, block=32)")});
  }
  EXPECT_EQ(parameters[2].granularity(), 512u);
  EXPECT_EQ(parameters[3].granularity(), 256u);
  const std::vector<uint32_t> ids = {4, 0, 1, 3, 2};
  for (int world = 1; world <= 5; ++world) {
    const Layout layout = make_layout(parameters, ids, world);
    EXPECT_EQ(layout.numel, 12262u);
    EXPECT_EQ(layout.whole.numel, layout.numel);
    EXPECT_EQ(layout.whole.pieces.size(), 4u);  // nothing for the empty one
    ASSERT_EQ(layout.shards.size(), static_cast<size_t>(world));
    std::vector<int> seen(layout.numel), placed(layout.numel);
    for (const Shard& shard : layout.shards) {
      size_t numel = 0, up = 0, down = 0;
      for (const Piece& piece : shard.pieces) {
        const Parameter& p = parameters[piece.parameter];
        EXPECT_EQ(piece.begin % p.granularity(), 0u);
        numel += piece.numel;
        EXPECT_EQ(piece.up_section, up);
        EXPECT_EQ(piece.down_section, down);
        up += p.up->parts();
        down += p.down->parts();
        for (size_t i = 0; i < piece.numel; ++i) ++seen[piece.at + i];
        for (const Piece& whole : layout.whole.pieces)
          if (whole.parameter == piece.parameter)
            for (size_t i = 0; i < piece.numel; ++i)
              placed[whole.at + piece.begin + i] += whole.at + piece.begin == piece.at;
      }
      EXPECT_EQ(shard.numel, numel);
      EXPECT_EQ(shard.up_sections, up);
      EXPECT_EQ(shard.down_sections, down);
    }
    EXPECT_TRUE(std::ranges::all_of(seen, [](int n) { return n == 1; }));
    EXPECT_TRUE(std::ranges::all_of(placed, [](int n) { return n == 1; }));
  }
}

}  // namespace
}  // namespace tsq
