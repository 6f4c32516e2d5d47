// Memory of any alignment: vectors that are aligned to their element only, payloads at any byte. Every compressor
// writes the same bytes, states and values as from aligned memory, on every target, and nothing beside them.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "compressors/registry.h"
#include "kernels/payload.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Buffer;

std::vector<std::string> specs() {
  std::ifstream in(std::string(TSQ_GOLDEN_DIR) + "/../specs.txt");
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

/// All that a codec makes of a vector: payload and state of each form, sum and mean of the payloads.
struct Outcome {
  std::vector<std::vector<uint8_t>> bytes;
  bool operator==(const Outcome&) const = default;
};

/// `skew`: bytes past a cache line at which payloads lie; vectors lie `skew` elements past one.
Outcome run(const Compressor& c, DType dtype, size_t n, size_t skew) {
  const DType state_type = state_dtype(dtype);
  const Buffer x = test::gradient(dtype, n, skew * size_of(dtype), 7);
  const EncodeKey key = encode_key({.seed = 3, .step = 1, .rank = 2}, 0, 4);
  const ConstView view{x.data(), dtype, n};
  Outcome out;
  std::vector<Buffer> payloads;
  for (const int form : {0, 1, 2}) {
    Buffer state = test::gradient(state_type, n, skew * size_of(state_type), 8), room(c.max_bytes(n, dtype), skew);
    const View s{state.data(), state_type, n};
    const MutableBytes to(room.data(), room.size());
    const auto sent = form == 0   ? c.encode(view, key, to)
                      : form == 1 ? c.encode_residual(view, s, key, to)
                                  : c.encode_shifted(view, s, key, to);
    EXPECT_TRUE(sent.finite && room.intact() && state.intact());
    out.bytes.emplace_back(room.data(), room.data() + sent.bytes);
    out.bytes.emplace_back(state.data(), state.data() + state.size());
    Buffer exact(sent.bytes, skew);  // nothing behind its end
    if (sent.bytes) std::memcpy(exact.data(), room.data(), sent.bytes);
    payloads.push_back(std::move(exact));
  }
  Buffer sum = test::gradient(state_type, n, skew * size_of(state_type), 9),
         mean(n * size_of(dtype), skew * size_of(dtype));
  std::vector<Bytes> all;
  for (const Buffer& payload : payloads) {
    all.emplace_back(payload.data(), payload.size());
    c.validate(all.back(), n, dtype);
    c.decode_add(all.back(), dtype, 0.5, {sum.data(), state_type, n});
  }
  c.decode_mean(all, {mean.data(), dtype, n});
  EXPECT_TRUE(sum.intact() && mean.intact());
  for (const Buffer* b : {&sum, &mean}) out.bytes.emplace_back(b->data(), b->data() + b->size());
  return out;
}

class Alignment : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, Alignment, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(Alignment, ChangesNoByte) {
  for (const std::string& spec : specs()) {
    const CompressorPtr c = parse_compressor(spec);
    for (const size_t n : {1, 300, 5003}) {
      const Outcome expected = run(*c, GetParam(), n, 0);
      for (const char* target : test::targets()) {
        const test::ForcedTarget forced(target);
        for (const size_t skew : {1, 3, 7, 13}) {
          ASSERT_TRUE(run(*c, GetParam(), n, skew) == expected)
              << spec << " n " << n << ' ' << target << " skew " << skew;
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tsq
