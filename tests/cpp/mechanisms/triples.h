// What tests of the three point inequality share: triples (h, y, x), random and worst, and an operator C_{h,y}(x) whose
// state can be chosen.
#pragma once

#include <gtest/gtest.h>

#include "mechanisms/endpoints.h"
#include "mechanisms/estimate.h"

namespace tsq::test {

using Reals = std::vector<double>;

inline constexpr size_t kNumel = 12, kKept = 3;  // TopK(k=3)
inline constexpr int kTriples = 10000;

inline double squared(const Reals& a, const Reals& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

struct Triple {
  Reals h = Reals(kNumel), y = Reals(kNumel), x = Reals(kNumel);
};

/// Random in a quarter of the cases; else worst cases: x - y parallel to y - h, along any vector or one of equal
/// magnitudes; and y - h along what Top-K leaves of x - y. Scales 1e-3 to 10.
inline Triple triple_of(std::mt19937_64& random) {
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

inline double bound(const ThreePoint& c, const Triple& t) {
  return (1 - c.A) * squared(t.h, t.y) + c.B * squared(t.x, t.y);
}

/// What rounding of numbers of x's size may add to an error near `limit`.
inline double slack(const Triple& t, double limit) {
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

}  // namespace tsq::test
