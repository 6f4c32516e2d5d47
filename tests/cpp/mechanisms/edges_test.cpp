// Mechanisms with an estimate at their edges: triggers, first steps, all types and sizes, NaN on one rank; and the
// estimate stays the mean of the shifts.
#include <gtest/gtest.h>

#include "mechanisms/specs.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::Octets;
using test::Vector;

Vector constant(size_t n, double value) {
  Vector x(DType::kFloat64, n);
  for (size_t i = 0; i < n; ++i) x.set(i, value);
  return x;
}

std::vector<Octets> messages_of(Endpoints& ends, uint64_t step) {
  std::vector<Octets> out;
  for (size_t r = 0; r < ends.senders.size(); ++r)
    out.push_back(ends.send(r, test::drifting(ends.config.dtype, ends.config.numel, r, step)));
  return out;
}

/// What an estimate may be off by after so many steps of numbers up to `size`.
double rounding(DType dtype, double size, double steps) { return 8 * steps * test::epsilon(state_dtype(dtype)) * size; }

TEST(Triggers, NothingIsSentWhileTheGradientRests) {
  for (const char* spec : {"LAG(zeta=0)", "LAG(zeta=2)", "CLAG(TopK(k=2), zeta=0)", "AdaCGD([TopK(k=2)], zeta=0)",
                           "AdaCGD([TopK(k=1), TopK(k=2)])"}) {
    for (const double value : {0.0, 3.0}) {
      Endpoints ends(spec, 20, 1, DType::kFloat64);
      ends.receive({ends.send(0, constant(20, value))});  // dense: x = y = h
      const Octets message = ends.send(0, constant(20, value));
      EXPECT_TRUE(test::payload_of(message).empty()) << spec;
      EXPECT_EQ(message.size(), wire::overhead(1)) << spec;
      EXPECT_EQ(ends.senders[0].level(), 0) << spec;
      EXPECT_EQ(ends.receive({message}), constant(20, value)) << spec;
    }
  }
}

TEST(Triggers, FireOnlyAboveTheLimit) {
  const struct {
    const char* spec;
    bool fires;
  } cases[] = {{"LAG(zeta=4)", false},
               {"LAG(zeta=3.999)", true},
               {"CLAG(TopK(k=2), zeta=4)", false},
               {"CLAG(TopK(k=2), zeta=3.999)", true},
               {"AdaCGD([TopK(k=2)], zeta=4)", false},
               {"AdaCGD([TopK(k=1), TopK(k=2)], zeta=3.999)", true}};
  for (const auto& c : cases) {
    Endpoints ends(c.spec, 16, 1, DType::kFloat64);
    for (size_t i = 0; i < 16; ++i) test::set(ends.senders[0].state(1), i, 1.0);  // h = 0, y = 1, x = 2: |r|^2 = 4 X
    ends.senders[0].set_step(1);
    const Octets message = ends.send(0, constant(16, 2.0));
    EXPECT_EQ(!test::payload_of(message).empty(), c.fires) << c.spec;
    EXPECT_EQ(ends.senders[0].level() > 0, c.fires) << c.spec;
    EXPECT_EQ(ends.senders[0].state(1).as<double>()[3], 2.0) << c.spec << ": y";
    EXPECT_EQ(ends.senders[0].state(0).as<double>()[0], c.fires ? 2.0 : 0.0) << c.spec << ": h";
  }
}

TEST(Triggers, ALadderTakesTheFirstLevelThatIsAccurateEnough) {
  // r = (4, 2, 1, 0...): what Top-1, 2, 3 leave is 5, 1, 0; |x - y|^2 = 1.
  const double entries[] = {4, 2, 1};
  const struct {
    double zeta;
    int level;
  } cases[] = {{21, 0}, {20.9, 1}, {5, 1}, {4.9, 2}, {1, 2}, {0.9, 3}, {0, 3}};
  for (const DType dtype : test::kAllDTypes) {
    for (const auto& c : cases) {
      for (const char* last : {"TopK(k=3)", "Identity()", "TopK(k=16)"}) {
        Endpoints ends(concat("AdaCGD([TopK(k=1), TopK(k=2), ", last, "], zeta=", c.zeta, ")"), 16, 1, dtype);
        Vector x(dtype, 16);
        for (size_t i = 0; i < 3; ++i) {
          x.set(i + 5, entries[i]);
          test::set(ends.senders[0].state(1), i + 5, entries[i]);
        }
        test::set(ends.senders[0].state(1), 0, 1.0);
        ends.senders[0].set_step(1);
        ends.send(0, x);
        EXPECT_EQ(ends.senders[0].level(), c.level) << c.zeta << ' ' << last << ' ' << name_of(dtype);
        for (int i = 0; i < 3; ++i)
          EXPECT_EQ(test::get(ends.senders[0].state(0), size_t(i) + 5), i < c.level ? entries[i] : 0.0)
              << c.zeta << ' ' << last << ' ' << name_of(dtype);
      }
    }
  }
}

// The energies of Top-K levels are differences of nearly equal sums when almost everything is kept: still right.
TEST(Triggers, ALadderIsNotFooledByCancellation) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const double small = dtype == DType::kFloat32 ? 1e-5 : 1e-9;  // its square vanishes beside 1
    for (const double zeta : {0.99, 1.01}) {
      Endpoints ends(concat("AdaCGD([TopK(k=1), TopK(k=2)], zeta=", zeta, ")"), 16, 1, dtype);
      Vector x(dtype, 16);
      x.set(3, 1.0), x.set(4, small);
      test::set(ends.senders[0].state(1), 3, 1.0);  // y: |x - y|^2 = small^2
      ends.senders[0].set_step(1);
      ends.send(0, x);
      EXPECT_EQ(ends.senders[0].level(), zeta < 1 ? 2 : 1) << name_of(dtype);
    }
  }
}

// A level's error counts what its values lose by having fewer bits. r = (1 + 2^-9, 2^-4): the first entry, sent as 1,
// leaves 2^-8 and 2^-18.
TEST(Triggers, ALadderCountsWhatNarrowValuesLose) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    for (const double spare : {0x1p-19, 0x1p-17}) {
      const std::string ladder = "AdaCGD([TopK(k=1, value_dtype='bf16'), TopK(k=2)], zeta=";
      Endpoints ends(concat(ladder, 0x1p-8 + spare, ")"), 16, 1, dtype);
      Vector x(dtype, 16);
      x.set(3, 1 + 0x1p-9), x.set(4, 0x1p-4);
      test::set(ends.senders[0].state(1), 3, 1 + 0x1p-9);
      test::set(ends.senders[0].state(1), 4, 0x1p-4);
      test::set(ends.senders[0].state(1), 9, 1.0);  // y: |x - y|^2 = 1
      ends.senders[0].set_step(1);
      ends.send(0, x);
      EXPECT_EQ(ends.senders[0].level(), spare < 0x1p-18 ? 2 : 1) << name_of(dtype);
    }
  }
}

TEST(FirstSteps, AreDenseOrFromZero) {
  const struct {
    const char *dense, *zero, *codec;
  } cases[] = {
      {"EF21(TopK(k=2))", "EF21(TopK(k=2), init='zero')", "TopK(k=2)"},
      {"LAG(zeta=9)", "LAG(zeta=9, init='zero')", "Identity()"},
      {"CLAG(TopK(k=2), zeta=9)", "CLAG(TopK(k=2), zeta=9, init='zero')", "TopK(k=2)"},
      {"AdaCGD([TopK(k=1), TopK(k=2)], zeta=9)", "AdaCGD([TopK(k=1), TopK(k=2)], zeta=9, init='zero')", "TopK(k=2)"}};
  for (const auto& c : cases) {
    Endpoints dense(c.dense, 30, 1, DType::kFloat64), zero(c.zero, 30, 1, DType::kFloat64),
        direct(c.codec, 30, 1, DType::kFloat64);
    const Vector x = test::drifting(DType::kFloat64, 30, 0, 0);
    const Octets first = dense.send(0, x), compressed = zero.send(0, x), alone = direct.send(0, x);
    EXPECT_TRUE(std::ranges::equal(test::payload_of(first), x.bytes())) << c.dense;
    EXPECT_EQ(dense.receive({first}), x);
    EXPECT_EQ(test::payload_of(compressed), test::payload_of(alone)) << c.zero;
    EXPECT_EQ(zero.receive({compressed}), direct.receive({alone}));
  }
}

class EstimatingTest : public testing::TestWithParam<const char*> {
 protected:
  const std::string spec = GetParam();
};
INSTANTIATE_TEST_SUITE_P(All, EstimatingTest, testing::ValuesIn(test::kEstimating),
                         [](const auto& info) { return concat("Spec", info.index); });

TEST_P(EstimatingTest, ReadsBack) { EXPECT_EQ(parse_mechanism(spec)->spec(), spec); }

TEST_P(EstimatingTest, EstimateIsTheMeanOfTheShiftsInEveryTypeSizeAndWorld) {
  for (const DType dtype : test::kAllDTypes) {
    for (const size_t n : {0, 1, 255, 257}) {
      for (uint32_t world = 1; world <= 4; ++world) {
        Endpoints ends(spec, n, world, dtype);
        double size = 0;
        for (uint64_t step = 0; step < 9; ++step) {
          const std::vector<Octets> messages = messages_of(ends, step);
          for (size_t r = 0; r < world; ++r) {
            ASSERT_FALSE(wire::parse(messages[r]).sections[0].non_finite);
            size = std::max(size, test::max_abs(test::drifting(dtype, n, r, step).view()));
          }
          const Vector out = ends.receive(messages);
          ASSERT_TRUE(std::isfinite(test::max_abs(out.view())));
          ASSERT_LE(test::max_abs(out.view()), 40 * size);
          ASSERT_LE(test::disagreement(ends), rounding(dtype, 4 * size, double(step + 1)))
              << name_of(dtype) << " n " << n << " world " << world << " step " << step;
        }
      }
    }
  }
}

TEST_P(EstimatingTest, NotANumberOnOneRankPassesAndLeavesNoTrace) {
  for (const DType dtype : test::kAllDTypes) {
    for (const uint64_t bad_step : {0, 1, 4}) {
      constexpr size_t kNumel = 257;
      Endpoints ends(spec, kNumel, 3, dtype);
      double size = 0;
      for (uint64_t step = 0; step < 12; ++step) {
        std::vector<Octets> messages;
        for (size_t r = 0; r < 3; ++r) {
          Vector x = test::drifting(dtype, kNumel, r, step);
          size = std::max(size, test::max_abs(x.view()));
          if (step == bad_step && r == 1) x.set(200, NAN);
          std::vector<Vector> before;
          for (const View& v : ends.senders[r].state().views()) before.emplace_back(ConstView(v));
          messages.push_back(ends.send(r, x));
          if (step != bad_step || r != 1) continue;
          EXPECT_TRUE(wire::parse(messages.back()).sections[0].non_finite);
          for (size_t i = 0; i < before.size(); ++i)
            ASSERT_EQ(Vector(ConstView(ends.senders[r].state(i))), before[i]) << "state of the marked rank";
        }
        const Vector out = ends.receive(messages);
        if (step == bad_step)
          ASSERT_TRUE(test::all_nan(out.view())) << name_of(dtype);
        else
          ASSERT_TRUE(std::isfinite(test::max_abs(out.view()))) << name_of(dtype) << " step " << step;
        ASSERT_LE(test::disagreement(ends), rounding(dtype, 4 * size, double(step + 1)))
            << name_of(dtype) << " bad " << bad_step << " step " << step;
      }
    }
  }
}

TEST_P(EstimatingTest, StatesAgreeAfterManySteps) {
  constexpr size_t kNumel = 16;
  constexpr uint64_t kSteps = 10000;
  Endpoints ends(spec, kNumel, 4);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<Vector> x(4, Vector(DType::kFloat32, kNumel));
  double largest = 0;
  for (uint64_t step = 0; step < kSteps; ++step) {
    std::vector<Octets> messages;
    for (size_t r = 0; r < 4; ++r) {
      for (size_t i = 0; i < kNumel; ++i) x[r].set(i, 0.9 * x[r][i] + (step % 3 ? 0.01f : 0.5f) * normal(random));
      messages.push_back(ends.send(r, x[r]));
    }
    largest = std::max(largest, test::max_abs(ends.receive(messages).view()));
  }
  EXPECT_LE(test::disagreement(ends), 1e-5 * largest);
}

// A mean in a 16-bit type can overflow where no gradient does: NaN for everybody, and the server's state stays finite.
TEST(Bidirectional, SurvivesAnAverageThatOverflows) {
  for (const char* down : {"LAG(zeta=1)", "EF21(Quantizer(bits=4))", "ErrorFeedback(Quantizer(bits=4))",
                           "EF21(Identity(), momentum=0.5)"}) {
    Endpoints ends(concat("Bidirectional(DIANA(Quantizer(bits=2, block=32)), ", down, ")"), 32, 1, DType::kFloat16);
    int overflows = 0;
    for (uint64_t step = 0; step < 240; ++step) {
      Vector x(DType::kFloat16, 32);
      const double largest = step < 40 ? 65000 : 100;
      for (size_t i = 0; i < 32; ++i) x.set(i, step % 2 ? largest : largest * (0.5 + double(i) / 64));
      const Vector out = ends.receive({ends.send(0, x)});
      overflows += test::all_nan(out.view());
      if (step == 239) {
        EXPECT_LT(test::max_abs(out.view()), 65504.0) << down;
      }
    }
    EXPECT_GT(overflows, 0) << down;
    for (const View& v : ends.receiver.state().views()) EXPECT_TRUE(std::isfinite(test::max_abs(v))) << down;
  }
}

// The difference of two 16-bit numbers may be none: what is sent saturates, and h gets there in the next step.
TEST(Identity, AnIncrementThatOverflowsSaturates) {
  for (const char* spec : {"LAG(zeta=0.5)", "EF21(Identity())", "ThreePC(TopK(k=2), variant=5, p=1)"}) {
    Endpoints ends(spec, 40, 2, DType::kFloat16);
    Vector x(DType::kFloat16, 40);
    for (uint64_t step = 0; step < 12; ++step) {
      for (size_t i = 0; i < 40; ++i) x.set(i, step / 3 % 2 == i % 2 ? 60000.0 : -60000.0);
      const Vector out = ends.receive({ends.send(0, x), ends.send(1, x)});
      ASSERT_LE(test::disagreement(ends), 1.0) << spec << " step " << step;
      if (step % 3 == 2) {
        ASSERT_LE(test::max_difference(out.view(), x.view()), 64.0) << spec << " step " << step;
      }
    }
  }
}

// MARINA has no shift. A marked rank counts, where whole vectors arrive, as what was known before: the old estimate.
TEST(Marina, TheMarkedRankKeepsItsShare) {
  for (const double p : {1.0, 1e-6}) {
    Endpoints ends(concat("MARINA(Natural(), p=", p, ")"), 20, 3, DType::kFloat64);
    const Vector old = ends.receive(messages_of(ends, 0));
    Vector bad = constant(20, 1.0);
    bad.set(3, INFINITY);
    std::vector<Octets> messages;
    for (size_t r = 0; r < 3; ++r)
      messages.push_back(ends.send(r, r == 1 ? bad : test::drifting(DType::kFloat64, 20, r, 1)));
    EXPECT_TRUE(test::all_nan(ends.receive(messages).view()));
    const Vector expected(DType::kFloat64, 20);
    for (size_t i = 0; i < 20; ++i) test::set(expected.view(), i, p == 1 ? old[i] / 3 : old[i]);
    const CompressorPtr usual = ends.config.mechanism->codecs(0)[0];
    for (const size_t r : {size_t{0}, size_t{2}}) {
      const wire::Message m = wire::parse(messages[r]);
      reader_of(m.sections[0], usual)->decode_add(m.payloads[0], DType::kFloat64, 1.0 / 3, expected.view());
    }
    EXPECT_LE(test::max_difference(ends.receiver.state().views()[0], expected.view()), 1e-14);
  }
}

// E|g+ - grad+|^2 = (1 - p)(|g - grad|^2 + (1/n^2) sum Var C(x_i - y_i)); Natural's variance is known element by
// element.
TEST(Marina, ErrorObeysItsIdentity) {
  constexpr size_t kNumel = 6, kWorld = 3;
  constexpr double kP = 0.3;
  constexpr int kDraws = 20000;
  Endpoints ends(concat("MARINA(Natural(), p=", kP, ")"), kNumel, kWorld, DType::kFloat64);
  std::vector<Vector> x, y;
  double variance = 0, before = 0;
  const Vector g = test::drifting(DType::kFloat64, kNumel, 9, 1);
  for (uint64_t r = 0; r < kWorld; ++r) {
    y.push_back(test::drifting(DType::kFloat64, kNumel, r, 1));
    x.push_back(test::drifting(DType::kFloat64, kNumel, r + 20, 2));
    for (size_t i = 0; i < kNumel; ++i) {
      const double d = std::abs(x[r][i] - y[r][i]);
      if (d == 0) continue;
      const double power = std::exp2(std::floor(std::log2(d))), m = d / power - 1;
      variance += power * power * m * (1 - m) / (kWorld * kWorld);
    }
  }
  const auto mean = [&](const std::vector<Vector>& v, size_t i) { return (v[0][i] + v[1][i] + v[2][i]) / kWorld; };
  for (size_t i = 0; i < kNumel; ++i) before += std::pow(g[i] - mean(y, i), 2);
  double sum = 0, squares = 0;
  for (uint64_t step = 1; step <= kDraws; ++step) {
    ends.receiver.set_step(step);
    std::memcpy(ends.receiver.state().views()[0].data, g.view().data, kNumel * sizeof(double));
    std::vector<Octets> messages;
    for (size_t r = 0; r < kWorld; ++r) {
      ends.senders[r].set_step(step);
      std::memcpy(ends.senders[r].state(0).data, y[r].view().data, kNumel * sizeof(double));
      messages.push_back(ends.send(r, x[r]));
    }
    const Vector out = ends.receive(messages);
    double error = 0;
    for (size_t i = 0; i < kNumel; ++i) error += std::pow(out[i] - mean(x, i), 2);
    sum += error, squares += error * error;
  }
  const double found = sum / kDraws, deviation = std::sqrt((squares / kDraws - found * found) / kDraws);
  EXPECT_NEAR(found, (1 - kP) * (before + variance), 5 * deviation);
}

}  // namespace
}  // namespace tsq
