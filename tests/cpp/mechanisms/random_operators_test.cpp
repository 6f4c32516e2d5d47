// Three point compressors of random maps: exact expectations, by enumeration. RandK(k=1) and the shared coin have a few
// outcomes of known probability; for each a step of the sender's is looked for in which it comes out so.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "compressors/subset.h"
#include "mechanisms/triples.h"
#include "mechanisms/vectors.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::kNumel;
using test::Octets;
using test::Operator;
using test::Triple;
using test::Vector;

/// The coordinate that a message's RandK(k=1) section keeps; -1 without one.
int coordinate_of(const Octets& octets, size_t n) {
  const wire::Message message = wire::parse(octets);
  for (size_t i = 0; i < message.sections.size(); ++i) {
    if (message.sections[i].format.codec != wire::Codec::kSubset) continue;
    std::vector<uint32_t> drawn;
    draw_subset(load<uint64_t>(message.payloads[i].data()), n, 1, drawn);
    return static_cast<int>(drawn[0]);
  }
  return -1;
}

/// A step for each outcome (coordinates of all ranks, coin), and its probability. `p`: of the coin, 0 without one.
struct Outcome {
  uint64_t step;
  double probability;
};

std::vector<Outcome> outcomes(Endpoints& ends, double p) {
  const size_t n = ends.config.numel, world = ends.senders.size();
  std::map<std::vector<int>, Outcome> found;  // heads send no subset: one outcome, all coordinates -1
  const double tails = std::pow(1.0 / static_cast<double>(n), static_cast<double>(world)) * (1 - p);
  const size_t all = static_cast<size_t>(std::llround(std::pow(double(n), double(world)))) + (p > 0 ? 1 : 0);
  Vector x(ends.config.dtype, n);
  for (size_t i = 0; i < n; ++i) x.set(i, 1.0 + static_cast<double>(i));
  for (uint64_t step = 1; found.size() < all && step < 100'000; ++step) {
    std::vector<int> which;
    for (size_t r = 0; r < world; ++r) {
      for (const View& v : ends.senders[r].state().views()) clear(v);
      ends.senders[r].set_step(step);
      which.push_back(coordinate_of(ends.send(r, x), n));
    }
    found.try_emplace(which, Outcome{step, which[0] < 0 ? p : tails});
  }
  std::vector<Outcome> out;
  double total = 0;
  for (const auto& [which, outcome] : found) out.push_back(outcome), total += outcome.probability;
  EXPECT_EQ(out.size(), all);
  EXPECT_NEAR(total, 1, 1e-12);
  return out;
}

TEST(RandomOperators, ExactExpectationsKeepTheInequality) {
  const struct {
    const char* spec;
    double p, reaches;
  } cases[] = {{"EF21(RandK(k=1))", 0, 0.9},
               {"CLAG(RandK(k=1), zeta=2)", 0, 0.9},
               {"AdaCGD([TopK(k=1), RandK(k=1)], zeta=0.5)", 0, 0.3},
               {"ThreePC(RandK(k=1), variant=1)", 0, 0.9},
               {"ThreePC(TopK(k=3), variant=2, second=RandK(k=1))", 0, 0.5},
               {"ThreePC(Identity(), variant=2, second=RandK(k=1))", 0, 0.0},
               {"ThreePC(TopK(k=3), variant=3, second=EF21(RandK(k=1)))", 0, 0.5},
               {"ThreePC(RandK(k=1), variant=4, second=TopK(k=2))", 0, 0.5},
               {"ThreePC(RandK(k=1), variant=5, p=0.2)", 0.2, 0.9},
               {"Ada3PC([EF21(TopK(k=2)), EF21(RandK(k=1))], [Accurate(zeta=1)])", 0, 0.5},
               {"MARINA(RandK(k=1), p=0.3)", 0.3, 0.9}};
  for (const auto& c : cases) {
    Endpoints probe(c.spec, kNumel, 1, DType::kFloat64);
    // Where a trigger or a ladder may leave RandK out: the draws of the level alone, which are the same.
    Endpoints alone("EF21(RandK(k=1))", kNumel, 1, DType::kFloat64);
    const bool chooses = std::string_view(c.spec).starts_with("Ada") || std::string_view(c.spec).starts_with("CLAG");
    const std::vector<Outcome> all = outcomes(chooses ? alone : probe, c.p);
    Operator op(c.spec);
    const double worst = test::worst_ratio(op.constants(), c.spec, [&](const Triple& t) {
      double expected = 0;
      for (const Outcome& o : all) expected += o.probability * op.error(t, o.step);
      return expected;
    });
    EXPECT_GE(worst, c.reaches) << c.spec;
    EXPECT_LE(worst, 1 + 1e-9) << c.spec;
  }
}

// E|g+ - grad+|^2 = (1 - p)(|g - grad|^2 + (omega / n) mean |x_i - y_i|^2), over all draws of all ranks and the coin.
TEST(RandomOperators, MarinasErrorIsItsIdentityToRounding) {
  constexpr size_t kElements = 4;
  for (const uint32_t world : {1u, 2u, 3u}) {
    for (const double p : {0.25, 0.7}) {
      Endpoints ends(concat("MARINA(RandK(k=1), p=", p, ")"), kElements, world, DType::kFloat64);
      const double omega = *ends.config.mechanism->compressor().class_of(kElements, world).omega;
      EXPECT_EQ(omega, kElements - 1.0);
      const std::vector<Outcome> all = outcomes(ends, p);
      const Vector g = test::random_vector(DType::kFloat64, kElements, 50);
      std::vector<Vector> x, y;
      double moved = 0, before = 0, after = 0;
      Vector mean_x(DType::kFloat64, kElements), mean_y(mean_x);
      for (uint32_t r = 0; r < world; ++r) {
        x.push_back(test::random_vector(DType::kFloat64, kElements, r + 1));
        y.push_back(test::random_vector(DType::kFloat64, kElements, r + 20));
        for (size_t i = 0; i < kElements; ++i) {
          moved += (x[r][i] - y[r][i]) * (x[r][i] - y[r][i]) / world;
          mean_x.set(i, mean_x[i] + x[r][i] / world), mean_y.set(i, mean_y[i] + y[r][i] / world);
        }
      }
      for (size_t i = 0; i < kElements; ++i) before += (g[i] - mean_y[i]) * (g[i] - mean_y[i]);
      for (const Outcome& o : all) {
        ends.receiver.set_step(o.step);
        std::memcpy(ends.receiver.state().views()[0].data, g.view().data, kElements * sizeof(double));
        std::vector<Octets> messages;
        for (uint32_t r = 0; r < world; ++r) {
          ends.senders[r].set_step(o.step);
          std::memcpy(ends.senders[r].state(0).data, y[r].view().data, kElements * sizeof(double));
          messages.push_back(ends.send(r, x[r]));
        }
        const Vector out = ends.receive(messages);
        for (size_t i = 0; i < kElements; ++i) after += o.probability * (out[i] - mean_x[i]) * (out[i] - mean_x[i]);
      }
      const double expected = (1 - p) * (before + omega / world * moved);
      EXPECT_NEAR(after, expected, 1e-12 * expected) << world << ' ' << p;
    }
  }
}

}  // namespace
}  // namespace tsq
