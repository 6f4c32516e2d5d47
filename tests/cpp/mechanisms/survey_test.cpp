// What one sweep over a gradient tells is what its parts tell one by one; and a ladder that decides by it decides as
// one that tries every level.
#include "mechanisms/survey.h"

#include <gtest/gtest.h>

#include <set>

#include "common/parallel.h"
#include "compressors/registry.h"
#include "kernels/payload.h"
#include "kernels/quantizer.h"
#include "mechanisms/specs.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::Octets;
using test::Vector;

constexpr size_t kSampled = 70'001;  // long enough for a sample, and no multiple of anything

/// A vector, and one close to it.
Vector near(const Vector& x, double distance, uint64_t seed) {
  Vector out(state_dtype(x.view().dtype), x.size());
  const Vector noise = test::random_vector(DType::kFloat32, x.size(), seed);
  for (size_t i = 0; i < x.size(); ++i) out.set(i, x[i] + distance * noise[i]);
  return out;
}

template <class F>
void with_state_of(DType dtype, const F& f) {
  with_element(dtype, [&](auto element) { f(typename decltype(element)::State{}); });
}

class SurveyTest : public testing::TestWithParam<DType> {
 protected:
  const DType dtype = GetParam();
};
INSTANTIATE_TEST_SUITE_P(All, SurveyTest, testing::ValuesIn(test::kAllDTypes),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(SurveyTest, SaysWhatItsPartsSay) {
  with_state_of(dtype, [&]<class S>(S) {
    for (const size_t n : {size_t{0}, size_t{1}, size_t{1023}, size_t{1024}, size_t{4097}, size_t{9000}, kSampled}) {
      for (const size_t largest : {size_t{0}, size_t{1}, n / 100, n / 2, n}) {
        for (const char* target : test::targets()) {
          const test::ForcedTarget forced(target);
          const Vector x = test::random_vector(dtype, n, n + largest), h = near(x, 0.5, 1), y = near(x, 0.1, 2);
          Selection<S> kept, expected;
          const Survey seen = survey(x.view(), h.view(), y.view(), largest, &kept);
          EXPECT_TRUE(seen.ordinary);
          EXPECT_EQ(seen.distance.to_shift, squared_distance(x.view(), h.view()));
          EXPECT_EQ(seen.distance.to_previous, squared_distance(x.view(), y.view()));
          EXPECT_EQ(seen.selected, largest > 0);
          if (largest == 0) continue;
          ASSERT_TRUE(select_largest(kernels::Form::kShifted, x.view(), h.view().data, largest, expected));
          for (int without = 0; without < 2; ++without) {
            if (without) survey(x.view(), h.view(), largest, &kept);
            ASSERT_EQ(kept.count, expected.count) << n << ' ' << largest;
            ASSERT_TRUE(
                std::equal(kept.index.begin(), kept.index.begin() + ptrdiff_t(kept.count), expected.index.begin()));
            ASSERT_TRUE(
                std::equal(kept.value.begin(), kept.value.begin() + ptrdiff_t(kept.count), expected.value.begin()));
          }
        }
      }
    }
  });
}

TEST_P(SurveyTest, FindsWhatIsNotOrdinaryAnywhere) {
  const double bad[] = {NAN, -INFINITY, dtype == DType::kFloat16 ? double(INFINITY) : 0x1p97};
  with_state_of(dtype, [&]<class S>(S) {
    for (const size_t n : {size_t{1}, size_t{33}, size_t{5000}, kSampled}) {
      for (const size_t at : {size_t{0}, n / 2, n - 1}) {
        for (const double value : bad) {
          Vector x = test::random_vector(dtype, n, n);
          const Vector h = near(x, 0.5, 1);
          x.set(at, value);
          Selection<S> kept;
          const Survey seen = survey(x.view(), h.view(), h.view(), 1, &kept),
                       less = survey(x.view(), h.view(), 1, &kept);
          EXPECT_FALSE(seen.ordinary) << n << ' ' << at << ' ' << value;
          EXPECT_FALSE(less.ordinary) << n << ' ' << at << ' ' << value;
          EXPECT_EQ(seen.selected, std::isfinite(value));
          EXPECT_EQ(less.selected, std::isfinite(value));
        }
      }
    }
  });
}

// Misled by values of another size where the sample is taken, or where it is not.
TEST_P(SurveyTest, SelectsExactlyWhateverTheSampleSays) {
  with_state_of(dtype, [&]<class S>(S) {
    for (const size_t largest : {size_t{100}, size_t{7000}}) {
      for (const double elsewhere : {0.0, 1e-3, 64.0}) {
        Vector x = test::random_vector(dtype, kSampled, largest);
        const Vector h(state_dtype(dtype), kSampled);
        for (size_t i = 0; i < kSampled; ++i)
          if (i % (kSampled / 64) >= 16) x.set(i, elsewhere * x[i]);
        Selection<S> kept, expected;
        EXPECT_TRUE(survey(x.view(), h.view(), h.view(), largest, &kept).selected);
        ASSERT_TRUE(select_largest(kernels::Form::kShifted, x.view(), h.view().data, largest, expected));
        ASSERT_EQ(kept.count, expected.count);
        for (size_t j = 0; j < kept.count; ++j) ASSERT_EQ(kept.index[j], expected.index[j]);
      }
    }
  });
}

TEST_P(SurveyTest, BoundsTheEnergyOfTheLargest) {
  with_state_of(dtype, [&]<class S>(S) {
    for (const size_t n : {size_t{1}, size_t{9}, size_t{1000}, size_t{20'000}}) {
      const Vector x = test::random_vector(dtype, n, n);
      Selection<S> all;
      ASSERT_TRUE(select_largest(kernels::Form::kPlain, x.view(), nullptr, n, all));
      for (const size_t target : {size_t{1}, n / 50, n / 3, n - 1, all.count, n}) {
        Selection<S> some;
        some.assign(all);
        keep_largest(some, std::max<size_t>(target, 1));
        double exact = 0;
        for (size_t j = 0; j < some.count; ++j) exact += double(some.value[j]) * double(some.value[j]);
        const double bound = largest_energy_bound(all, std::max<size_t>(target, 1));
        EXPECT_GE(bound * (1 + 1e-9), exact) << n << ' ' << target;
        if (n >= 1000 && target >= 20) {
          EXPECT_LE(bound, 1.5 * exact) << n << ' ' << target;
        }
      }
    }
  });
}

TEST_P(SurveyTest, DistancesInStretchesAreThoseInOnePiece) {
  constexpr size_t kStretch = SquaredDistance::kStretch;
  for (const size_t n : {size_t{1}, kStretch - 1, kStretch, kStretch + 1, 3 * kStretch + 33}) {
    const Vector x = test::random_vector(dtype, n, n), h = near(x, 0.5, 1);
    SquaredDistance sum;
    EXPECT_FALSE(sum.surely_above(0));
    for (size_t begin = 0; begin < n; begin += kStretch) {
      const size_t count = std::min(kStretch, n - begin);
      sum.add(x.view().slice(begin, count), h.view().slice(begin, count));
    }
    const double whole = squared_distance(x.view(), h.view());
    ASSERT_TRUE(sum.total());
    EXPECT_EQ(*sum.total(), whole);
    EXPECT_TRUE(sum.surely_above(0.49 * whole));
    EXPECT_FALSE(sum.surely_above(whole));
  }
  if (state_dtype(dtype) == DType::kFloat64) return;
  SquaredDistance none;
  const Vector x(dtype, 100), h(DType::kFloat32, 100);
  none.add(x.view(), h.view());
  EXPECT_FALSE(none.total()) << "it may be too small for float";
}

/// What AdaCGD(ladder, zeta) sends for x, by trying level after level on a copy of h, which becomes the new one.
Octets tried(const std::vector<CompressorPtr>& ladder, double zeta, const Vector& x, Vector& h, const Vector& y,
             const EncodeKey& key, int* level) {
  const double allowed = zeta * squared_distance(x.view(), y.view());
  *level = 0;
  if (squared_distance(x.view(), h.view()) <= allowed) return {};
  for (const CompressorPtr& written : ladder) {
    const CompressorPtr c = written->as_contractive();
    ++*level;
    Vector moved(h);
    Octets out(c->max_bytes(x.size(), x.view().dtype));
    out.resize(c->encode_shifted(x.view(), moved.view(), key, out).bytes);
    if (written != ladder.back() && squared_distance(x.view(), moved.view()) > allowed) continue;
    const bool raw = c->format().codec == wire::Codec::kRaw && x.view().dtype == h.view().dtype;
    h = raw ? x : moved;  // to the bit
    return out;
  }
  return {};
}

TEST_P(SurveyTest, ALadderDecidesAsOneThatTriesEveryLevel) {
  const std::vector<std::vector<const char*>> ladders = {
      {"TopK(ratio=0.001)", "TopK(ratio=0.01)", "TopK(ratio=0.1)", "TopK(ratio=0.5)"},
      {"TopK(k=400)", "TopK(ratio=0.001)", "TopK(ratio=0.2)"},
      {"Quantizer(bits=1, block=1024)", "Quantizer(bits=2)", "Quantizer(bits=4)"},
      {"TopK(ratio=0.001)", "Sign()", "TopK(ratio=0.3)", "Identity()"},
      {"TopK(ratio=0.05)"}};
  for (const auto& names : ladders) {
    std::vector<CompressorPtr> ladder;
    std::string list;
    for (const char* name : names) {
      ladder.push_back(parse_compressor(name));
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
    std::set<int> levels;
    for (const double zeta : {0.0, 0.3, 3.0, 12.0, 20.0, 24.5, 30.0}) {
      for (const size_t n : {size_t{5003}, kSampled}) {
        Endpoints ends(concat("AdaCGD([", list, "], zeta=", zeta, ")"), n, 1, dtype);
        Sender& sender = ends.senders[0];
        const Vector x = test::random_vector(dtype, n, n), y = near(x, 0.2, 1);
        Vector h = near(x, 1.0, 2);
        assign(sender.state(0), h.view());
        assign(sender.state(1), y.view());
        sender.set_step(1);
        const Octets message = ends.send(0, x);
        int level = 0;
        const EncodeKey key = encode_key({.seed = 1, .step = 1, .rank = 0}, 0, 1);
        const Octets expected = tried(ladder, zeta, x, h, y, key, &level);
        ASSERT_EQ(sender.level(), level) << list << " zeta " << zeta << " n " << n;
        ASSERT_EQ(test::payload_of(message), expected) << list << " zeta " << zeta << " n " << n;
        ASSERT_EQ(Vector(ConstView(sender.state(0))), h) << list << " zeta " << zeta << " n " << n;
        for (size_t i = 0; i < n; ++i) ASSERT_EQ(test::get(sender.state(1), i), x[i]);
        levels.insert(level);
      }
    }
    EXPECT_GE(levels.size(), std::min<size_t>(names.size() + 1, 3)) << list;
  }
}

// One sweep or several, the same bytes and the same state.
TEST_P(SurveyTest, ASenderThatLooksForItselfIsOneThatIsToldTo) {
  for (const char* spec : {"EF21(TopK(ratio=0.01))", "CLAG(TopK(ratio=0.02), zeta=6)",
                           "CLAG(Quantizer(bits=4), zeta=6)", "AdaCGD([TopK(ratio=0.001), TopK(ratio=0.1)], zeta=4)"}) {
    for (const double bad : {0.0, double(NAN), double(INFINITY)}) {
      Endpoints alone(spec, kSampled, 1, dtype), threads(spec, kSampled, 1, dtype);
      ASSERT_TRUE(alone.config.mechanism->inspects());
      for (uint64_t step = 0; step < 5; ++step) {
        Vector x = test::random_vector(dtype, kSampled, 7);
        const Vector noise = test::random_vector(dtype, kSampled, step);
        for (size_t i = 0; i < kSampled; ++i) x.set(i, x[i] + (step % 2 ? 0.5 : 0.05) * noise[i]);
        if (step % 2 == 0 && bad != 0) x.set(kSampled - 7 * step - 1, bad);
        const Octets one = alone.send(0, x);
        set_num_threads(3);
        const Octets other = threads.send(0, x);
        set_num_threads(1);
        ASSERT_EQ(one, other) << spec << ' ' << step;
        ASSERT_EQ(wire::parse(one).sections[0].non_finite, step % 2 == 0 && bad != 0) << spec << ' ' << step;
        for (size_t v = 0; v < alone.senders[0].state().size(); ++v)
          ASSERT_EQ(Vector(ConstView(alone.senders[0].state(v))), Vector(ConstView(threads.senders[0].state(v))))
              << spec << ' ' << step;
      }
    }
  }
}

}  // namespace
}  // namespace tsq
