// Copies past the cache: every SIMD target copies all of it and nothing beside it.
#include <gtest/gtest.h>

#include "compressors/deliver.h"
#include "kernels/payload.h"
#include "vectors.h"

namespace tsq::kernels {
namespace {

TEST(CopyPastCache, CopiesEveryByteAndNoOther) {
  constexpr size_t kRoom = 1024;
  std::vector<uint8_t> from(kRoom);
  for (size_t i = 0; i < kRoom; ++i) from[i] = static_cast<uint8_t>(i * 37 + i / 256);
  for (const char* target : test::targets()) {
    const test::ForcedTarget forced(target);
    for (const size_t bytes : {0, 1, 3, 4, 63, 64, 65, 127, 128, 129, 500, 700}) {
      for (const size_t to_at : {0, 1, 4, 60, 63, 64}) {
        for (const size_t from_at : {0, 4, 13}) {
          std::vector<uint8_t> to(kRoom, 0xEE), expected(to);
          copy_past_cache(to.data() + to_at, from.data() + from_at, bytes);
          std::copy_n(from.begin() + static_cast<ptrdiff_t>(from_at), bytes,
                      expected.begin() + static_cast<ptrdiff_t>(to_at));
          ASSERT_EQ(to, expected) << target << ' ' << bytes << ' ' << to_at << ' ' << from_at;
        }
      }
    }
  }
}

TEST(Deliver, IsAssignForEveryTypeAndLength) {
  for (const DType to : test::kAllDTypes) {
    for (const DType from : test::kAllDTypes) {
      for (const size_t n : {size_t{0}, size_t{1}, size_t{1001}, kBeyondCache / 2 + 3}) {
        if (n > 2000 && from != to && to != DType::kFloat32) continue;
        const test::Vector x = test::random_vector(from, n, 1);
        test::Vector got(to, n), expected(to, n);
        deliver(got.view(), x.view());
        assign(expected.view(), x.view());
        ASSERT_EQ(got, expected) << name_of(to) << ' ' << name_of(from) << ' ' << n;
      }
    }
  }
}

}  // namespace
}  // namespace tsq::kernels
