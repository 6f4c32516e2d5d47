// The bound that compiled graphs use: every compressor's, on every size. The list of specs is tests/specs.txt.
#include <gtest/gtest.h>

#include <fstream>

#include "common/error.h"
#include "compressors/registry.h"
#include "vectors.h"
#include "wire/indices.h"

namespace tsq {
namespace {

std::vector<std::string> specs() {
  std::ifstream in(std::string(TSQ_GOLDEN_DIR) + "/../specs.txt");
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

/// Small ones all, then those around powers of two and some others, to 2^31.
std::vector<size_t> sizes() {
  std::vector<size_t> out;
  for (size_t n = 0; n < 9000; ++n) out.push_back(n);
  for (int exponent = 13; exponent < 32; ++exponent)
    for (const int64_t by : {-257, -33, -1, 0, 1, 31, 33, 255, 257, 4095, 4097})
      out.push_back(static_cast<size_t>((int64_t{1} << exponent) + by));
  std::mt19937_64 random(1);
  for (int i = 0; i < 3000; ++i) out.push_back(random() >> (33 + random() % 20));
  return out;
}

TEST(Capacity, BoundsEveryCompressorsPayloads) {
  EXPECT_GT(specs().size(), 10u);
  for (const std::string& spec : specs()) {
    const CompressorPtr c = parse_compressor(spec);
    for (const DType dtype : test::kAllDTypes) {
      const Capacity capacity = c->capacity(dtype);
      for (const size_t n : sizes()) {
        const size_t bound = capacity.bytes(n), most = c->max_bytes(n, dtype);
        ASSERT_GE(bound, most) << spec << " of " << n << " " << name_of(dtype);
        ASSERT_GE(bound, c->zero_bytes(n, dtype)) << spec << " of " << n;
        if (c->has_fixed_size() && c->format().codec != wire::Codec::kSubset) {  // a granule behind at most
          ASSERT_LE(bound, most + most / 64 + c->max_bytes(c->granularity(), dtype) + 4) << spec << " of " << n;
        }
      }
    }
  }
}

TEST(Capacity, OfSparseVectorsIsCloseWhereItIsUsed) {
  for (const double ratio : {0.001, 0.01, 0.1, 0.5}) {
    const CompressorPtr c = parse_compressor(concat("TopK(ratio=", ratio, ")"));
    const size_t n = 1'000'000;
    EXPECT_LE(static_cast<double>(c->capacity(DType::kFloat32).bytes(n)),
              1.1 * static_cast<double>(c->max_bytes(n, DType::kFloat32)) + 100'000)
        << ratio;
  }
}

}  // namespace
}  // namespace tsq
