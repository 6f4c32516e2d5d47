// Top-k's sweep: every SIMD target does what the scalar oracle does, to the bit.
#include "kernels/topk.h"

#include <gtest/gtest.h>

#include "vectors.h"

namespace tsq::kernels {
namespace {

using test::Vector;

struct Swept {
  std::vector<uint32_t> index;
  Vector value, state;
  size_t count = 0, done = 0;

  bool operator==(const Swept& other) const {
    return count == other.count && done == other.done && state == other.state &&
           std::equal(index.begin(), index.begin() + static_cast<ptrdiff_t>(count), other.index.begin()) &&
           std::ranges::equal(value.bytes().first(count * size_of(value.view().dtype)),
                              other.value.bytes().first(count * size_of(value.view().dtype)));
  }
};

template <class F>
Swept swept(F sweep, Form form, const Vector& x, const Vector& state, size_t begin, size_t end, uint64_t floor) {
  const size_t room = x.size() + 5 + kTopKSlack;
  Swept out{std::vector<uint32_t>(room), Vector(state.view().dtype, room), Vector(state), 5, 0};
  out.done = sweep(form, x.view(), form == Form::kPlain ? nullptr : out.state.view().data, begin, end, floor,
                   out.index.data(), out.value.view().data, &out.count);
  return out;
}

uint64_t key_of(DType state, double value) {
  return state == DType::kFloat64 ? std::bit_cast<uint64_t>(value) : std::bit_cast<uint32_t>(static_cast<float>(value));
}

class TopKSweep : public testing::TestWithParam<DType> {
 protected:
  void TearDown() override { force_simd_target(nullptr); }
};
INSTANTIATE_TEST_SUITE_P(All, TopKSweep, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(TopKSweep, EveryTargetIsTheOracle) {
  const DType dtype = GetParam(), state_type = state_dtype(dtype);
  size_t targets = 0;
  const char* const* names = simd_targets(&targets);
  for (const size_t n : {0, 1, 15, 64, 65, 1000, 4096, 5003}) {
    Vector x = test::random_vector(dtype, n, n), state = test::random_vector(state_type, n, n + 1);
    for (size_t i = 0; i + 3 < n; i += 7) state.set(i, i % 2 ? -x[i] : x[i]);  // zeros of both signs among the sums
    for (const float bad : {0.0f, INFINITY, -INFINITY, NAN}) {
      for (const size_t at : {n / 3, n - 1}) {
        Vector y(x);
        if (bad != 0 && n > 0) y.set(at, bad);
        for (const Form form : {Form::kPlain, Form::kResidual, Form::kShifted}) {
          for (const uint64_t floor : {uint64_t{1}, key_of(state_type, 0.05), key_of(state_type, 3.0)}) {
            for (const size_t begin : {size_t{0}, n / 2, n - n / 5}) {
              const Swept expected = swept(scalar::topk_sweep, form, y, state, begin, n, floor);
              for (size_t t = 0; t < targets; ++t) {
                ASSERT_TRUE(force_simd_target(names[t]));
                ASSERT_TRUE(swept(topk_sweep, form, y, state, begin, n, floor) == expected)
                    << names[t] << " n " << n << " form " << int(form) << " floor " << floor << " begin " << begin;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(TopKSweep, OracleAppendsWhatReachesTheFloorAndStopsAtWhatIsNotFinite) {
  const DType dtype = GetParam();
  Vector x(dtype, 6), state(state_dtype(dtype), 6);
  const double values[] = {1, -3, 0.5, NAN, 8, 8};
  for (size_t i = 0; i < 6; ++i) x.set(i, values[i]), state.set(i, 1);
  const Swept out = swept(scalar::topk_sweep, Form::kResidual, x, state, 0, 6, key_of(state_dtype(dtype), 2.0));
  EXPECT_EQ(out.done, 3u);
  ASSERT_EQ(out.count, 7u);
  EXPECT_EQ(out.index[5], 0u);
  EXPECT_EQ(out.index[6], 1u);
  EXPECT_EQ(out.value[6], -2);
  EXPECT_EQ(out.state[2], 1.5);
  EXPECT_EQ(out.state[4], 1);
}

}  // namespace
}  // namespace tsq::kernels
