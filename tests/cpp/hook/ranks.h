// Ranks as threads: the data path of a whole job in one process, and exchanges that misbehave.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "exchange/loopback.h"
#include "hook/averager.h"
#include "mechanisms/registry.h"
#include "vectors.h"

namespace tsq::test {

using GroupPtr = std::shared_ptr<LoopbackGroup>;

/// Runs body(rank) on a thread per rank. Returns what they threw, by rank; "": nothing. Who throws takes the others
/// along.
template <class F>
std::vector<std::string> errors_on_ranks(const GroupPtr& group, F body) {
  std::vector<std::string> errors(static_cast<size_t>(group->size()));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < group->size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(rank);
      } catch (const std::exception& e) {
        errors[static_cast<size_t>(rank)] = e.what();
        group->abort();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

/// As above where nobody may throw.
template <class F>
void on_ranks(const GroupPtr& group, F body) {
  for (const std::string& error : errors_on_ranks(group, body)) EXPECT_EQ(error, "");
}

struct ParameterSpec {
  size_t numel;
  std::string up;
  std::string down = up;
};

using Buckets = std::vector<std::vector<uint32_t>>;
using ByRank = std::vector<std::vector<Vector>>;  ///< [rank][parameter]
using Wrap = std::function<std::unique_ptr<Exchange>(GroupPtr, int rank)>;

inline std::unique_ptr<Exchange> plain_exchange(GroupPtr group, int rank) {
  return std::make_unique<LoopbackExchange>(group, rank);
}

/// W averagers of one model.
class Cluster {
 public:
  Cluster(int world, DType dtype, std::vector<ParameterSpec> model, const AveragerConfig& config,
          const Wrap& wrap = plain_exchange)
      : dtype(dtype), model(std::move(model)), group(std::make_shared<LoopbackGroup>(world)) {
    for (int rank = 0; rank < world; ++rank) {
      std::vector<Parameter> parameters;
      for (const ParameterSpec& p : this->model)
        parameters.push_back(
            {concat("p", parameters.size()), p.numel, dtype, parse_mechanism(p.up), parse_mechanism(p.down)});
      averagers.push_back(std::make_unique<Averager>(std::move(parameters), config, wrap(group, rank)));
    }
  }

  int world() const { return group->size(); }

  /// The gradients of a step; independent of buckets.
  ByRank gradients(uint64_t step) const {
    ByRank out(averagers.size());
    for (size_t rank = 0; rank < out.size(); ++rank)
      for (size_t id = 0; id < model.size(); ++id)
        out[rank].push_back(random_vector(dtype, model[id].numel, (step * 16 + rank) * 1000 + id));
    return out;
  }

  /// Averages all buckets in this order; `values` goes in as gradients and comes back as what the optimizer would see.
  /// Errors by rank.
  std::vector<std::string> try_step(const Buckets& buckets, ByRank& values) {
    return errors_on_ranks(group, [&](int rank) {
      const auto r = static_cast<size_t>(rank);
      for (const std::vector<uint32_t>& ids : buckets) {
        size_t numel = 0, at = 0;
        for (const uint32_t id : ids) numel += model[id].numel;
        const Vector buffer(dtype, numel);
        const auto copy = [&](bool in) {
          at = 0;
          for (const uint32_t id : ids) {
            const View part = buffer.view().slice(at, model[id].numel), own = values[r][id].view();
            if (own.numel)
              std::memcpy(in ? part.data : own.data, in ? own.data : part.data, own.numel * size_of(dtype));
            at += model[id].numel;
          }
        };
        copy(true);
        try {
          averagers[r]->average(ids, buffer.view());
        } catch (...) {
          copy(false);
          throw;
        }
        copy(false);
      }
    });
  }

  ByRank step(const Buckets& buckets, ByRank values) {
    for (const std::string& error : try_step(buckets, values)) EXPECT_EQ(error, "");
    return values;
  }
  ByRank step(const Buckets& buckets, uint64_t number) { return step(buckets, gradients(number)); }

  /// The worker's residual; of length 0 if there is none.
  Vector residual(int rank, uint32_t id) const {
    for (const StateRef& ref : averagers[static_cast<size_t>(rank)]->states().all())
      if (ref.parameter == id && ref.side == Side::kWorker) return Vector(ConstView(ref.view));
    return Vector(state_dtype(dtype), 0);
  }

  /// How often each parameter was averaged compressed.
  std::vector<uint64_t> steps(size_t rank) const {
    std::vector<uint64_t> out;
    for (uint32_t id = 0; id < model.size(); ++id) out.push_back(averagers[rank]->states().progress(id).steps);
    return out;
  }

  /// The owners' residuals of a parameter put together; zero where there is none.
  Vector owner_residual(uint32_t id) const {
    const Vector out(state_dtype(dtype), model[id].numel);
    for (const auto& averager : averagers)
      for (const StateRef& ref : averager->states().all())
        if (ref.parameter == id && ref.side == Side::kOwner)
          std::memcpy(out.view().slice(ref.begin, ref.view.numel).data, ref.view.data,
                      ref.view.numel * size_of(ref.view.dtype));
    return out;
  }

  /// All state of all ranks: worker's [rank][id], then owners' [W][id].
  ByRank snapshot() const {
    ByRank out(averagers.size() + 1);
    for (uint32_t id = 0; id < model.size(); ++id) {
      for (int rank = 0; rank < world(); ++rank) out[static_cast<size_t>(rank)].push_back(residual(rank, id));
      out.back().push_back(owner_residual(id));
    }
    return out;
  }

  const DType dtype;
  const std::vector<ParameterSpec> model;
  const GroupPtr group;
  std::vector<std::unique_ptr<Averager>> averagers;
};

/// The largest difference of two snapshots, relative to the larger number of a parameter's gradients and state.
inline double relative_difference(const ByRank& a, const ByRank& b, const ByRank& gradients) {
  double worst = 0;
  for (size_t r = 0; r < a.size(); ++r)
    for (size_t id = 0; id < a[r].size(); ++id) {
      double size = 1e-30;
      for (const auto& of_rank : gradients)
        size = std::max(size, max_abs(of_rank[id].view()) + max_abs(b[r][id].view()));
      const double d = max_difference(a[r][id].view(), b[r][id].view()) / size;
      if (!(d <= worst)) worst = d;
    }
  return worst;
}

/// Lets everything through but its `target`-th collective: that one throws before it begins, or has a received byte
/// changed.
class MisbehavingExchange final : public Exchange {
 public:
  enum class Kind { kThrow, kFlip };

  MisbehavingExchange(GroupPtr group, int rank, Kind kind, uint64_t target, size_t position = 0, uint8_t mask = 0x80)
      : inner_(std::move(group), rank), kind_(kind), target_(target), position_(position), mask_(mask) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }

 private:
  void do_all_gather(Bytes mine, MutableBytes all) override {
    before();
    inner_.all_gather(mine, all);
    after(all);
  }
  void do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                     std::span<const size_t> recv_sizes) override {
    before();
    inner_.all_to_all(send, send_sizes, recv, recv_sizes);
    after(recv);
  }
  void do_all_reduce_mean(View x) override {
    before();
    inner_.all_reduce_mean(x);
  }

  void before() {
    if (kind_ == Kind::kThrow && count_ == target_) throw std::runtime_error("planted failure");
  }
  void after(MutableBytes received) {
    if (kind_ == Kind::kFlip && count_ == target_) received[position_ % received.size()] ^= mask_;
    ++count_;
  }

  LoopbackExchange inner_;
  const Kind kind_;
  const uint64_t target_;
  const size_t position_;
  const uint8_t mask_;
  uint64_t count_ = 0;
};

}  // namespace tsq::test
