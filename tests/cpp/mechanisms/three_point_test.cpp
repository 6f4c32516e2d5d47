// Three point compressors keep what they promise: E|C(x) - x|^2 <= (1 - A)|h - y|^2 + B |x - y|^2 for every h, y, x,
// with the A and B that three_point() names; and where the bound is tight the tests reach it.
#include <gtest/gtest.h>

#include "mechanisms/endpoints.h"
#include "mechanisms/estimate.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::Vector;
using Reals = std::vector<double>;

constexpr size_t kNumel = 12, kKept = 3;  // TopK(k=3)
constexpr int kTriples = 10000;

double squared(const Reals& a, const Reals& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

struct Triple {
  Reals h = Reals(kNumel), y = Reals(kNumel), x = Reals(kNumel);
};

/// Random in a quarter of the cases; else worst cases: x - y parallel to y - h, along any vector or one of equal
/// magnitudes; and y - h along what Top-K leaves of x - y. Scales 1e-3 to 10.
Triple triple_of(std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  const auto kind = random() % 4;
  const double step = std::pow(10, -3 + 4 * uniform(random));
  const double behind = random() % 2 ? step * 4 * (uniform(random) - 0.5) * (1 + 3 * uniform(random))
                                     : std::pow(10, -3 + 4 * uniform(random));
  Triple t;
  Reals u(kNumel), v(kNumel);
  for (size_t i = 0; i < kNumel; ++i) {
    t.y[i] = normal(random);
    v[i] = kind >= 2 ? (random() % 2 ? 1.0 : -1.0) : normal(random);
    u[i] = kind == 0 ? normal(random) : kind == 3 && i < kKept ? 0.0 : v[i];
  }
  const Reals zero(kNumel);
  for (size_t i = 0; i < kNumel; ++i) {
    t.h[i] = t.y[i] - behind * u[i] / std::sqrt(squared(u, zero));
    t.x[i] = t.y[i] + step * v[i] / std::sqrt(squared(v, zero));
  }
  return t;
}

/// Sender and receiver of one rank whose state can be chosen.
class Operator {
 public:
  explicit Operator(const std::string& spec) : ends_(spec, kNumel, 1, DType::kFloat64) {}

  const Mechanism& mechanism() const { return *ends_.config.mechanism; }
  ThreePoint constants() const { return *mechanism().three_point(kNumel, 1); }

  /// C_{h,y}(x) as the receiver of step `step` has it.
  Reals apply(const Triple& t, uint64_t step) {
    Sender& sender = ends_.senders[0];
    sender.set_step(step);
    ends_.receiver.set_step(step);
    for (size_t i = 0; i < sender.state().size(); ++i)
      fill(sender.state(i), sender.state().names()[i] == "shift" ? t.h : t.y);
    fill(ends_.receiver.state().views()[0], t.h);
    Vector x(DType::kFloat64, kNumel);
    fill(x.view(), t.x);
    const Vector out = ends_.receive({ends_.send(0, x)});
    return Reals(out.view().as<double>(), out.view().as<double>() + kNumel);
  }
  double error(const Triple& t, uint64_t step) { return squared(apply(t, step), t.x); }
  int level() const { return ends_.senders[0].level(); }

 private:
  static void fill(View to, const Reals& from) { std::ranges::copy(from, to.as<double>()); }
  Endpoints ends_;
};

double bound(const ThreePoint& c, const Triple& t) { return (1 - c.A) * squared(t.h, t.y) + c.B * squared(t.x, t.y); }

/// What rounding of numbers of x's size may add to an error near `limit`.
double slack(const Triple& t, double limit) {
  const double size = squared(t.x, Reals(kNumel)) + squared(t.h, Reals(kNumel));
  return 1e-12 * limit + 1e-14 * std::sqrt(size * limit) + 1e-28 * size;
}

/// The largest ratio of error to bound over the triples.
template <class Error>
double worst_ratio(const ThreePoint& constants, const std::string& what, Error error) {
  std::mt19937_64 random(7);
  double worst = 0;
  for (int trial = 0; trial < kTriples; ++trial) {
    const Triple t = triple_of(random);
    const double limit = bound(constants, t), found = error(t);
    if (found > limit + slack(t, limit)) {
      ADD_FAILURE() << what << " triple " << trial << ": " << found << " > " << limit;
      break;
    }
    if (limit > 0) worst = std::max(worst, found / limit);
  }
  return worst;
}

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
