// Three point compressors keep what they promise: E|C(x) - x|^2 <= (1 - A)|h - y|^2 + B |x - y|^2 for every h, y, x,
// with the A and B that three_point() names; and where the bound is tight the tests reach it.
#include <gtest/gtest.h>

#include "mechanisms/triples.h"

namespace tsq {
namespace {

using test::bound;
using test::kNumel;
using test::Operator;
using test::Reals;
using test::slack;
using test::squared;
using test::Triple;
using test::triple_of;
using test::worst_ratio;

TEST(ThreePoint, DeterministicMechanismsKeepTheInequality) {
  const struct {
    const char* spec;
    double reaches;
  } cases[] = {
      {"EF21(TopK(k=3))", 0.9},
      {"EF21(Quantizer(bits=2, block=32))", 0.0},
      {"EF21(Sign(block=32))", 0.0},
      {"EF21(Identity())", 0.0},
      {"LAG(zeta=0.5)", 0.9},
      {"LAG(zeta=9)", 0.9},
      {"CLAG(TopK(k=3), zeta=0.5)", 0.9},
      {"CLAG(TopK(k=9), zeta=1)", 0.9},
      {"CLAG(TopK(k=3), zeta=64)", 0.5},
      {"CLAG(Quantizer(bits=3, block=32), zeta=2)", 0.0},
      {"AdaCGD([TopK(k=1), TopK(k=2), TopK(k=3)])", 0.9},
      {"AdaCGD([TopK(k=1), TopK(k=3), Identity()], zeta=2)", 0.9},
      {"AdaCGD([TopK(k=1), Quantizer(bits=2, block=32), Quantizer(bits=4, block=32)], zeta=0.3)", 0.0},
      {"AdaCGD([TopK(k=1), TopK(k=3)], zeta=30)", 0.5},
      {"ThreePC(TopK(k=3), variant=1)", 0.9},
      {"ThreePC(TopK(k=3), variant=2, second=Identity())", 0.9},
      {"ThreePC(TopK(k=3), variant=3, second=EF21(TopK(k=1)))", 0.5},
      {"ThreePC(TopK(k=3), variant=3, second=LAG(zeta=2))", 0.5},
      {"ThreePC(TopK(k=3), variant=3, second=CLAG(TopK(k=1), zeta=3))", 0.5},
      {"ThreePC(TopK(k=3), variant=3, second=ThreePC(TopK(k=2), variant=4, second=TopK(k=1)))", 0.5},
      {"ThreePC(TopK(k=3), variant=4, second=TopK(k=2))", 0.9},
      {"Ada3PC([LAG(zeta=2), EF21(TopK(k=1)), EF21(TopK(k=3))], [Near(zeta=2), Accurate(zeta=2)])", 0.9},
      {"Ada3PC([EF21(TopK(k=2)), CLAG(TopK(k=3), zeta=4)], [Settled(zeta=0.01)])", 0.5},
      {"Ada3PC([ThreePC(TopK(k=1), variant=4, second=TopK(k=3)), LAG(zeta=9)], [Far(zeta=1)])", 0.3},
      {"Ada3PC([EF21(Sign(block=32)), ThreePC(TopK(k=3), variant=3, second=LAG(zeta=2))], [Accurate(zeta=0.5)])", 0.5},
  };
  for (const auto& c : cases) {
    Operator op(c.spec);
    const double worst = worst_ratio(op.constants(), c.spec, [&](const Triple& t) { return op.error(t, 1); });
    EXPECT_GE(worst, c.reaches) << c.spec;
  }
}

TEST(ThreePoint, EF21KeepsItForEverySplitOfTheSquare) {
  Operator op("EF21(TopK(k=3))");
  const double rest = 1 - *op.mechanism().compressor().class_of(kNumel).alpha;
  for (const double s : {0.01, 0.05, 0.1, 0.2, 0.3}) {
    ASSERT_LT(rest * (1 + s), 1);
    const ThreePoint constants{1 - rest * (1 + s), rest * (1 + 1 / s)};
    worst_ratio(constants, concat("s = ", s), [&](const Triple& t) { return op.error(t, 1); });
  }
}

// The coin has two outcomes: steps at which it falls this way and that give the expectation exactly.
TEST(ThreePoint, TheCoinsExpectationKeepsIt) {
  for (const double p : {0.1, 0.5, 1.0}) {
    Operator op(concat("ThreePC(TopK(k=3), variant=5, p=", p, ")"));
    uint64_t tails = 1, heads = 1;
    const Triple any;
    const auto restarts = [&](uint64_t step) { return op.apply(any, step), op.level() == 1; };
    while (p < 1 && restarts(tails)) ++tails;
    while (!restarts(heads)) ++heads;
    const double worst = worst_ratio(op.constants(), concat("p = ", p), [&](const Triple& t) {
      return p * op.error(t, heads) + (p < 1 ? (1 - p) * op.error(t, tails) : 0.0);
    });
    if (p < 1) {
      EXPECT_GE(worst, 0.9) << p;
    }
  }
}

// Random compressors: Monte-Carlo, the mean of `kDraws` errors is above the bound by at most five of its deviations.
TEST(ThreePoint, RandomMechanismsKeepItOnAverage) {
  constexpr int kDraws = 400;
  for (const char* spec :
       {"ThreePC(TopK(k=3), variant=2, second=Quantizer(bits=3, block=32))",
        "ThreePC(TopK(k=1), variant=2, second=Ternary(block=32))", "ThreePC(TopK(k=3), variant=2, second=Natural())",
        "MARINA(Ternary(block=32), p=0.3)", "MARINA(Natural(), p=0.5)"}) {
    Operator op(spec);
    std::mt19937_64 random(11);
    for (int trial = 0; trial < 150; ++trial) {
      const Triple t = triple_of(random);
      double sum = 0, squares = 0;
      for (uint64_t step = 1; step <= kDraws; ++step) {
        const double e = op.error(t, step);
        sum += e, squares += e * e;
      }
      const double mean = sum / kDraws, deviation = std::sqrt(std::max(0.0, squares / kDraws - mean * mean) / kDraws);
      const double limit = bound(op.constants(), t);
      ASSERT_LE(mean, limit + 5 * deviation + slack(t, limit)) << spec << " triple " << trial;
    }
  }
}

// Whatever a rule picks, if its error is at most max{zeta |x - y|^2, (1 - alpha)|x - h|^2}: AdaCGD's constants hold. A
// free choice of outputs on that sphere shows that the lemma needs no more than that.
TEST(ThreePoint, AnySelectorWithinTheSphereKeepsAdaCGDsConstants) {
  for (const double zeta : {0.0, 1.0, 20.0}) {
    Operator op(concat("AdaCGD([TopK(k=1), TopK(k=3)], zeta=", zeta, ")"));
    const double alpha = *op.mechanism().compressor().class_of(kNumel).alpha;
    std::mt19937_64 random(3);
    std::normal_distribution<double> normal;
    worst_ratio(op.constants(), concat("zeta = ", zeta), [&](const Triple& t) {
      const double radius = std::sqrt(std::max(zeta * squared(t.x, t.y), (1 - alpha) * squared(t.x, t.h)));
      Reals direction(kNumel), out(kNumel);
      for (double& d : direction) d = normal(random);
      const double length = std::sqrt(squared(direction, Reals(kNumel)));
      for (size_t i = 0; i < kNumel; ++i) out[i] = t.x[i] + radius * direction[i] / length;
      return squared(out, t.x);
    });
  }
}

TEST(ThreePoint, ConstantsAreTheTables) {
  const auto of = [](const std::string& spec) { return *parse_mechanism(spec)->three_point(12, 1); };
  const double s = 1 - std::sqrt(0.75);  // S(1/4)
  EXPECT_DOUBLE_EQ(of("EF21(TopK(k=3))").A, s);
  EXPECT_DOUBLE_EQ(of("EF21(TopK(k=3))").B, 0.75 / s);
  EXPECT_EQ(of("LAG(zeta=3)").A, 1.0);
  EXPECT_EQ(of("LAG(zeta=3)").B, 3.0);
  EXPECT_DOUBLE_EQ(of("CLAG(TopK(k=3), zeta=1)").B, 0.75 / s);
  EXPECT_DOUBLE_EQ(of("CLAG(TopK(k=3), zeta=100)").B, 100.0);
  EXPECT_DOUBLE_EQ(of("AdaCGD([TopK(k=1), TopK(k=3)])").B, 0.75 / s);
  EXPECT_EQ(of("ThreePC(TopK(k=3), variant=1)").A, 1.0);
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=1)").B, 0.75);
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=2, second=Natural())").A, 0.25);
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=2, second=Natural())").B, 0.75 / 8);
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=3, second=LAG(zeta=2))").A, 1.0);
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=3, second=LAG(zeta=2))").B, 1.5);
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=4, second=TopK(k=4))").A, 1 - std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(of("ThreePC(TopK(k=3), variant=5, p=0.25)").B, 0.75 * 0.75 / s);
  // Ada3PC: the worst of its levels; one under Accurate counts as (1, zeta), those behind Always not at all.
  const auto ladder = of("Ada3PC([LAG(zeta=2), EF21(TopK(k=1)), EF21(TopK(k=3))], [Near(zeta=2), Accurate(zeta=2)])");
  EXPECT_EQ(ladder.A, of("AdaCGD([TopK(k=1), TopK(k=3)], zeta=2)").A);
  EXPECT_EQ(ladder.B, of("AdaCGD([TopK(k=1), TopK(k=3)], zeta=2)").B);
  EXPECT_DOUBLE_EQ(of("Ada3PC([LAG(zeta=9), EF21(TopK(k=3))], [Settled(zeta=1)])").A, s);
  EXPECT_DOUBLE_EQ(of("Ada3PC([LAG(zeta=9), EF21(TopK(k=3))], [Settled(zeta=1)])").B, 9);
  EXPECT_DOUBLE_EQ(of("Ada3PC([EF21(TopK(k=3)), LAG(zeta=9)], [Always()])").B, 0.75 / s);
  EXPECT_FALSE(parse_mechanism("Ada3PC([EF21(UniformStep(step=1)), LAG(zeta=9)], [Far(zeta=1)])")->three_point(12, 1));
  EXPECT_DOUBLE_EQ(parse_mechanism("MARINA(Natural(), p=0.25)")->three_point(12, 3)->B, 0.75 / 8 / 3);
}

}  // namespace
}  // namespace tsq
