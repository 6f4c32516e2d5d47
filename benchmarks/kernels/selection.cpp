// What choosing the number of entries costs (docs/cat.md): nanoseconds of processor time per element on one thread, the
// best of some repetitions, for each rule and cost, on Gaussian and on heavy-tailed vectors. Also how many entries or
// what threshold was chosen. Usage: bench_selection [elements ...]
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "policy/cat.h"

namespace tsq {
namespace {

constexpr int kRepetitions = 7;

/// Of this thread's own processor time: what it is worth on a machine that others use too.
double best_seconds(const std::function<void()>& run) {
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  double best = 1e9;
  for (int i = 0; i < kRepetitions; ++i) {
    const double start = now();
    run();
    best = std::min(best, now() - start);
  }
  return best;
}

std::vector<float> draw(size_t n, bool heavy) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> some(1 << 18), out(n);
  for (float& v : some) v = normal(random) * 1e-3f;
  if (heavy)
    for (float& v : some) v = v * v * v * 1e6f;
  for (size_t i = 0; i < n; ++i) out[i] = some[(i * 7 + i / some.size() * 31) % some.size()];
  return out;
}

void run(size_t n) {
  const auto affine = std::make_shared<AffineCost>(0.05 * static_cast<double>(n), 1.0, Unit::kBytes);
  const auto packets = std::make_shared<PacketCost>(PacketCost::Config{.message = 0.2 * static_cast<double>(n)});
  for (const bool heavy : {false, true}) {
    const std::vector<float> g = draw(n, heavy);
    const EntryCode code{n, 32, 0}, signs{n, 1, 32};
    for (const auto& [name, cost] : {std::pair<const char*, std::shared_ptr<CostModel>>("affine", affine),
                                     std::pair<const char*, std::shared_ptr<CostModel>>("packets", packets)}) {
      const CatChooser chooser({.cost = cost});
      double chosen = 0;
      const auto report = [&](const char* rule, const std::function<void()>& choose) {
        const double seconds = best_seconds(choose);
        std::printf("%8zu %-8s %-8s %-5s %8.3f ns/element, chosen %.17g\n", n, heavy ? "heavy" : "gaussian", name, rule,
                    seconds * 1e9 / static_cast<double>(n), chosen);
        std::fflush(stdout);
      };
      const std::span<const float> all(g);
      report("S", [&] { chosen = static_cast<double>(chooser.largest(all, code)); });
      report("S+Q", [&] { chosen = static_cast<double>(chooser.signs(all, signs)); });
      report("SS", [&] { chosen = chooser.threshold(all, code); });
    }
  }
}

}  // namespace
}  // namespace tsq

int main(int argc, char** argv) {
  std::vector<size_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoul(argv[i], nullptr, 10));
  if (sizes.empty()) sizes = {1 << 20, 6553600};
  for (const size_t n : sizes) tsq::run(n);
}
