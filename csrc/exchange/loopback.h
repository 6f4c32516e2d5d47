// Ranks as threads of one process: collectives through shared memory. For tests, benchmarks and the lab.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <vector>

#include "exchange/exchange.h"

namespace tsq {

/// What the ranks share. A rank that does not come within `timeout` makes the others throw std::runtime_error, for
/// good.
class LoopbackGroup {
 public:
  explicit LoopbackGroup(int size, std::chrono::milliseconds timeout = std::chrono::seconds(60));

  int size() const { return size_; }

  /// Breaks the group: every rank that waits or comes later throws. What a killed peer looks like.
  void abort();

 private:
  friend class LoopbackExchange;

  /// Waits until every rank is here to begin a collective, and says how many bytes each sends; all pass or all throw.
  void enter(int rank, const void* memory, std::span<const size_t> sizes);
  /// Waits until every rank has read what it needs: no memory of a peer is touched after this. Whoever entered leaves.
  /// `fits`: the sizes were what this rank expected; if not, breaks the group and throws.
  void leave(bool fits);

  const int size_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  uint64_t generation_ = 0;
  bool broken_ = false;
  std::vector<const uint8_t*> memory_;          // by rank: what it sends
  std::vector<std::span<const size_t>> sizes_;  // by rank: what it sends to each, or to all alike
};

class LoopbackExchange final : public Exchange {
 public:
  LoopbackExchange(std::shared_ptr<LoopbackGroup> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

 private:
  void do_all_gather(Bytes mine, MutableBytes all) override;
  void do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                     std::span<const size_t> recv_sizes) override;
  void do_all_reduce_mean(View x) override;

  std::shared_ptr<LoopbackGroup> group_;
  const int rank_;
};

}  // namespace tsq
