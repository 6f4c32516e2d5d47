// Ada3PC: which level each condition takes, state after levels that were tried in vain, specs and what is refused. Its
// special cases: equivalences_test.cpp; its constants: three_point_test.cpp.
#include <gtest/gtest.h>

#include "mechanisms/specs.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::Vector;

constexpr size_t kNumel = 16;

/// A sender in its second step with h = 0, y = y_0 e_0 and then x = 3 e_0 + 1 e_1.
class Step {
 public:
  explicit Step(const std::string& spec, double y0 = 2)
      : ends(spec, kNumel, 1, DType::kFloat64), x(DType::kFloat64, kNumel) {
    ends.senders[0].set_step(1);
    test::set(ends.senders[0].state(1), 0, y0);
    x.set(0, 3), x.set(1, 1);
    message = ends.send(0, x);
  }
  int level() const { return ends.senders[0].level(); }
  double h(size_t i) { return test::get(ends.senders[0].state(0), i); }

  Endpoints ends;
  Vector x;
  test::Octets message;
};

// |x - h|^2 = 10, |x - y|^2 = 2, |x|^2 = 10; what Top-1 leaves is 1.
TEST(Ada3PC, TakesTheFirstLevelWhoseConditionHolds) {
  const struct {
    const char* condition;
    bool holds;
  } cases[] = {{"Always()", true},
               {"Near(zeta=5)", true},
               {"Near(zeta=4.9)", false},
               {"Far(zeta=5)", false},
               {"Far(zeta=4.9)", true},
               {"Settled(zeta=0.2)", true},
               {"Settled(zeta=0.19)", false},
               {"Accurate(zeta=0.5)", true},
               {"Accurate(zeta=0.49)", false}};
  for (const auto& c : cases) {
    Step step(concat("Ada3PC([EF21(TopK(k=1)), EF21(TopK(k=2))], [", c.condition, "])"));
    EXPECT_EQ(step.level(), c.holds ? 0 : 1) << c.condition;
    EXPECT_EQ(step.h(0), 3.0) << c.condition;
    EXPECT_EQ(step.h(1), c.holds ? 0.0 : 1.0) << c.condition << ": h keeps nothing of a level that was tried in vain";
    EXPECT_EQ(test::get(step.ends.senders[0].state(1), 1), 1.0) << c.condition << ": y";
  }
}

TEST(Ada3PC, LevelsOfSeveralPartsAndOfOneShareAMessage) {
  const std::string two = "ThreePC(TopK(k=1), variant=4, second=TopK(k=1))";
  for (const bool first : {true, false}) {
    Step step("Ada3PC([" + two + ", EF21(TopK(k=1))], [" + (first ? "Near" : "Far") + "(zeta=5)])");
    EXPECT_EQ(wire::parse(step.message).sections.size(), 2u);
    EXPECT_EQ(step.level(), first ? 0 : 1);
    EXPECT_EQ(step.h(1), first ? 1.0 : 0.0);
    step.ends.receiver.set_step(1);
    const Vector out = step.ends.receive({step.message});
    for (size_t i = 0; i < kNumel; ++i) EXPECT_EQ(out[i], step.h(i));
  }
}

// From zero there is no previous gradient: nothing is near, everything is far, only what is exact is accurate.
TEST(Ada3PC, TheFirstStepFromZero) {
  const struct {
    const char* condition;
    int level;
  } cases[] = {{"Near(zeta=100)", 1},
               {"Far(zeta=100)", 0},
               {"Settled(zeta=100)", 1},
               {"Accurate(zeta=100)", 1},
               {"Always()", 0}};
  for (const auto& c : cases) {
    Endpoints ends(concat("Ada3PC([EF21(TopK(k=1), init='zero'), EF21(TopK(k=2), init='zero')], [", c.condition,
                          "], init='zero')"),
                   kNumel, 1);
    Vector x(DType::kFloat32, kNumel);
    x.set(0, 3), x.set(1, 1);
    ends.receive({ends.send(0, x)});
    EXPECT_EQ(ends.senders[0].level(), c.level) << c.condition;
  }
}

// A level that was tried in vain has moved neither h nor y: what follows does the step that it would do alone.
TEST(Ada3PC, WhatIsTriedInVainLeavesThePreviousGradientToTheNext) {
  const std::string next[] = {"ThreePC(TopK(k=1), variant=2, second=RandK(k=3))", "CLAG(TopK(k=2), zeta=1)",
                              "ThreePC(TopK(k=2), variant=5, p=0.3)"};
  for (const char* tried : {"CLAG(TopK(k=1), zeta=0)", "ThreePC(TopK(k=1), variant=2, second=RandK(k=2))"}) {
    for (const std::string& last : next) {
      Endpoints ladder(concat("Ada3PC([", tried, ", ", last, "], [Accurate(zeta=0)])"), kNumel, 1, DType::kFloat64),
          alone(last, kNumel, 1, DType::kFloat64);
      for (uint64_t step = 0; step < 7; ++step) {  // the eighth rests: exact, so taken
        const Vector x = test::drifting(DType::kFloat64, kNumel, 0, step);
        const test::Octets a = ladder.send(0, x), b = alone.send(0, x);
        if (step > 0) {
          ASSERT_EQ(ladder.senders[0].level(), 1) << tried << ' ' << last << ' ' << step;
        }
        ASSERT_EQ(test::payload_of(a), test::payload_of(b)) << tried << ' ' << last << ' ' << step;
        ASSERT_EQ(ladder.receive({a}), alone.receive({b}));
        for (size_t i = 0; i < kNumel; ++i)
          ASSERT_EQ(test::get(ladder.senders[0].state(1), i), x[i]) << "y, step " << step;
      }
    }
  }
}

TEST(Ada3PC, InfInALevelThatIsTriedLeavesNoTrace) {
  Endpoints ends("Ada3PC([EF21(Quantizer(bits=2)), EF21(TopK(k=2))], [Accurate(zeta=0.1)])", kNumel, 1);
  ends.receive({ends.send(0, test::random_vector(DType::kFloat32, kNumel, 1))});
  const Vector h = ends.state(0);
  Vector x = test::random_vector(DType::kFloat32, kNumel, 2);
  x.set(7, INFINITY);
  const test::Octets message = ends.send(0, x);
  EXPECT_TRUE(wire::parse(message).sections[0].non_finite);
  EXPECT_EQ(ends.state(0), h);
  EXPECT_TRUE(test::all_nan(ends.receive({message}).view()));
}

TEST(Ada3PC, SpecsAndWhatIsRefused) {
  const std::string spec = "Ada3PC([LAG(zeta=2.0), EF21(TopK(k=3))], [Near(zeta=2.0)])";
  EXPECT_EQ(parse_mechanism(spec)->spec(), spec);
  EXPECT_EQ(parse_mechanism("Ada3PC(mechanisms=[EF21(Sign())], conditions=[])")->spec(), "Ada3PC([EF21(Sign())], [])");
  const struct {
    const char *spec, *says;
  } cases[] = {
      {"Ada3PC([], [])", "mechanisms: expected at least one, got none"},
      {"Ada3PC([EF21(Sign())], [Always()])", "conditions: expected 0, one less than mechanisms, got 1"},
      {"Ada3PC([EF21(Sign()), LAG(zeta=1)], [])", "conditions: expected 1, one less than mechanisms, got 0"},
      {"Ada3PC([EF21(Sign()), LAG(zeta=1)], [Near()])", "Near needs an argument 'zeta'"},
      {"Ada3PC([EF21(Sign()), LAG(zeta=1)], [Near(zeta=-1)])", "zeta: expected a number from 0"},
      {"Ada3PC([EF21(Sign()), LAG(zeta=1)], [Always(zeta=1)])", "Always"},
      {"Ada3PC([EF21(Sign()), LAG(zeta=1)], [Often()])",
       "unknown condition Often(); conditions: Always, Near, Far, Settled, Accurate"},
      {"Ada3PC([EF21(Sign()), LAG(zeta=1)], [TopK(k=1)])", "unknown condition"},
      {"Ada3PC([ErrorFeedback(Sign())], [])", "expected EF21 (no momentum), LAG"},
      {"Ada3PC([EF21(Sign(), momentum=0.1)], [])", "expected EF21 (no momentum), LAG"},
      {"Ada3PC([DIANA(Natural())], [])", "expected EF21 (no momentum), LAG"},
      {"Ada3PC([MARINA(Natural(), p=0.1)], [])", "expected EF21 (no momentum), LAG"},
      {"Ada3PC([ThreePC(Sign(), variant=1)], [])", "expected EF21 (no momentum), LAG"},
      {"Ada3PC([Sign()], [])", "expected EF21 (no momentum), LAG"},
      {"Ada3PC([EF21(Sign())], [], init='zero')", "expected init='zero' as around it, got EF21(Sign())"},
      {"ThreePC(Sign(), variant=3, second=EF21(Sign()), init='zero')", "expected init='zero' as around it"},
      {"ThreePC(Sign(), variant=3, second=DIANA(Natural()))", "expected EF21 (no momentum), LAG"},
      {"Near(zeta=1)", "unknown mechanism or compressor Near(zeta=1)"},
  };
  for (const auto& c : cases) {
    const std::string error = test::error_of<SpecError>([&] { parse_mechanism(c.spec); });
    EXPECT_TRUE(test::contains(error, c.says)) << c.spec << ": " << error;
  }
}

}  // namespace
}  // namespace tsq
