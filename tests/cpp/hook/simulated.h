// Training over a link that is simulated: real averagers and messages over the loopback, times by a clock of ours.
#pragma once

#include <cmath>

#include "hook/ranks.h"

namespace tsq::test {

/// Seconds of a collective in which a rank sends `bytes`: c0 + c1 * bytes.
struct Link {
  double c0 = 0, c1 = 0;
};
constexpr Link kSlow{1e-4, 1e-5}, kFast{1e-5, 1e-9};

struct SimulatedConfig {
  int world = 2;
  ExchangeKind exchange = ExchangeKind::kAllGather;
  std::vector<std::string> ladder = {"ErrorFeedback(Quantizer(bits=4))"};
  NeverSlowerConfig policy = {};
  double backward = 0.2, others = 0.1;  ///< seconds of a step
  double codec = 0;                     ///< seconds per compressed exchange besides
  double noise = 0;                     ///< every time is multiplied by up to 1 +- this, another for every rank
  std::vector<size_t> sizes = {2000, 20000, 3000};
  std::optional<PlannerConfig> planner = {};
};

/// A job of `world` ranks; step() is one training step.
class Simulated {
 public:
  explicit Simulated(const SimulatedConfig& config)
      : config_(config), clocks_(static_cast<size_t>(config.world)), draws_(clocks_.size()) {
    group_ = std::make_shared<LoopbackGroup>(config.world);
    for (int rank = 0; rank < config.world; ++rank) {
      std::vector<Parameter> parameters;
      for (const size_t numel : config.sizes) {
        Parameter p{concat("p", parameters.size()), numel, DType::kFloat32, parse_mechanism(config.ladder[0]),
                    parse_mechanism(config.ladder[0])};
        for (size_t level = 1; level < config.ladder.size(); ++level)
          p.coarser.emplace_back(parse_mechanism(config.ladder[level]), p.down);
        parameters.push_back(std::move(p));
      }
      if (config.planner) Planner::make_plannable(parameters);
      AveragerConfig averager{.exchange = config.exchange};
      averager.never_slower = config.policy;
      averager.clock = [this, rank] { return clocks_[static_cast<size_t>(rank)]; };
      averagers.push_back(
          std::make_unique<Averager>(std::move(parameters), averager, std::make_unique<Wire>(*this, group_, rank)));
      if (config.planner)
        averagers.back()->follow(std::make_unique<Planner>(*config.planner, averagers.back()->parameters()));
    }
  }

  /// One step with random gradients; seconds that it took. Fails the test if a rank throws or the ranks differ.
  double step() {
    const double begin = *std::max_element(clocks_.begin(), clocks_.end());
    const size_t n = config_.sizes.size();
    std::vector<std::vector<Vector>> out(clocks_.size());
    on_ranks(group_, [&](int rank) {
      const auto r = static_cast<size_t>(rank);
      double ready = clocks_[r];
      for (uint32_t id = static_cast<uint32_t>(n); id-- > 0;) {  // the last parameter is ready first
        ready += config_.backward / static_cast<double>(n) * noise(r);
        Vector v = random_vector(DType::kFloat32, config_.sizes[id], (steps_ * 16 + r) * 1000 + id);
        gradient(r, id, v);
        clocks_[r] = std::max(clocks_[r], ready);
        const uint32_t ids[] = {id};
        averagers[r]->average(ids, v.view(), {ready, id == 0});
        out[r].push_back(std::move(v));
      }
      clocks_[r] += config_.others * noise(r);
    });
    ++steps_;
    for (size_t r = 0; r < out.size(); ++r)
      for (size_t b = 0; b < out[r].size(); ++b) {
        EXPECT_EQ(out[r][b], out[0][b]) << "rank " << r << " step " << steps_;
        if (r == 0) delivered_[n - 1 - b] += sum_of(out[0][b]);
      }
    for (const auto& averager : averagers) EXPECT_EQ(averager->policy()->plan, plan()) << "step " << steps_;
    return *std::max_element(clocks_.begin(), clocks_.end()) - begin;
  }

  /// Calls f(averager) on every rank's thread.
  template <class F>
  void together(F f) {
    on_ranks(group_, [&](int rank) { f(*averagers[static_cast<size_t>(rank)]); });
  }

  void steps(int count) {
    for (int i = 0; i < count; ++i) step();
  }

  Plan plan() const { return averagers[0]->policy()->plan; }
  bool dense() const {
    return std::ranges::all_of(plan(), [](const Choice& c) { return c.kind == ExchangeKind::kDense; });
  }
  bool on_trial() const { return averagers[0]->policy()->on_trial; }
  /// Sum of the mean gradients so far, and of what was delivered; by parameter, all elements together.
  double given(uint32_t id) const { return given_[id]; }
  double delivered(uint32_t id) const { return delivered_[id]; }
  /// The mean over ranks of what is owed.
  double owed(uint32_t id) const {
    double total = 0;
    for (const auto& averager : averagers)
      for (const StateRef& ref : averager->states().all())
        if (ref.parameter == id && (ref.name == "residual" || ref.name == kOwed))
          total += sum_of(Vector(ConstView(ref.view))) /
                   (ref.side == Side::kOwner ? 1.0 : static_cast<double>(averagers.size()));
    return total;
  }

  Link link = kFast;
  std::vector<std::unique_ptr<Averager>> averagers;
  std::function<void(size_t rank, uint32_t id, Vector&)> change;  ///< of a gradient, before it is averaged

 private:
  static double sum_of(const Vector& v) {
    double total = 0;
    for (size_t i = 0; i < v.size(); ++i) total += v[i];
    return total;
  }

  void gradient(size_t rank, uint32_t id, Vector& v) {
    if (change) change(rank, id, v);
    const std::lock_guard lock(mutex_);
    given_[id] += sum_of(v) / static_cast<double>(clocks_.size());
  }

  double noise(size_t rank) {
    uint64_t& state = draws_[rank];
    state = state * 6364136223846793005u + 1442695040888963407u + rank;
    const double uniform = static_cast<double>(state >> 40) / static_cast<double>(1 << 24);
    return 1 + config_.noise * (2 * uniform - 1);
  }

  /// Ranks wait for the last one; then the link takes its time.
  class Wire final : public Exchange {
   public:
    Wire(Simulated& owner, GroupPtr group, int rank) : owner_(owner), inner_(std::move(group), rank) {}
    int rank() const override { return inner_.rank(); }
    int size() const override { return inner_.size(); }

   private:
    void do_all_gather(Bytes mine, MutableBytes all) override {
      inner_.all_gather(mine, all);
      spend(static_cast<double>(mine.size()) * (size() - 1), owner_.config_.codec);
    }
    void do_all_to_all(Bytes send, std::span<const size_t> to, MutableBytes recv,
                       std::span<const size_t> from) override {
      inner_.all_to_all(send, to, recv, from);
      spend(static_cast<double>(send.size() - to[static_cast<size_t>(rank())]), owner_.config_.codec);
    }
    void do_all_reduce_mean(View x) override {
      inner_.all_reduce_mean(x);
      spend(static_cast<double>(ring_bytes(x.numel * size_of(x.dtype), size())), 0);
    }
    void spend(double bytes, double more) {
      double& now = owner_.clocks_[static_cast<size_t>(rank())];
      std::vector<double> all(static_cast<size_t>(size()));
      inner_.all_gather({reinterpret_cast<const uint8_t*>(&now), 8},
                        {reinterpret_cast<uint8_t*>(all.data()), 8 * all.size()});
      const double took = owner_.link.c0 + owner_.link.c1 * bytes;
      now = *std::max_element(all.begin(), all.end()) + (took + more) * owner_.noise(static_cast<size_t>(rank()));
    }

    Simulated& owner_;
    LoopbackExchange inner_;
  };

  const SimulatedConfig config_;
  GroupPtr group_;
  std::vector<double> clocks_;
  std::vector<uint64_t> draws_;
  std::mutex mutex_;
  uint64_t steps_ = 0;
  std::vector<double> given_ = std::vector<double>(16), delivered_ = std::vector<double>(16);
};

}  // namespace tsq::test
