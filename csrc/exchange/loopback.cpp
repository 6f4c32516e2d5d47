#include "exchange/loopback.h"

#include <numeric>
#include <stdexcept>

#include "common/convert.h"
#include "common/error.h"

namespace tsq {

LoopbackGroup::LoopbackGroup(int size, std::chrono::milliseconds timeout)
    : size_(size), timeout_(timeout), memory_(static_cast<size_t>(size)), sizes_(static_cast<size_t>(size)) {}

void LoopbackGroup::abort() {
  const std::lock_guard lock(mutex_);
  broken_ = true;
  changed_.notify_all();
}

void LoopbackGroup::barrier() {
  std::unique_lock lock(mutex_);
  if (broken_) throw std::runtime_error("loopback: a peer is gone");
  const uint64_t generation = generation_;
  if (++waiting_ == size_) {
    waiting_ = 0;
    ++generation_;
    changed_.notify_all();
    return;
  }
  const bool came = changed_.wait_for(lock, timeout_, [&] { return broken_ || generation_ != generation; });
  if (generation_ != generation) return;
  broken_ = true;
  changed_.notify_all();
  throw std::runtime_error(came ? "loopback: a peer is gone"
                                : concat("loopback: timed out after ", timeout_.count(), " ms waiting for a peer"));
}

void LoopbackExchange::do_all_gather(Bytes mine, MutableBytes all) {
  group_->memory_[static_cast<size_t>(rank_)] = mine.data();
  group_->barrier();
  for (size_t r = 0; r < group_->memory_.size(); ++r)
    std::memcpy(all.data() + r * mine.size(), group_->memory_[r], mine.size());
  group_->barrier();  // nobody reads a peer's memory after this
}

void LoopbackExchange::do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                                     std::span<const size_t> recv_sizes) {
  group_->memory_[static_cast<size_t>(rank_)] = send.data();
  group_->sizes_[static_cast<size_t>(rank_)] = send_sizes;
  group_->barrier();
  uint8_t* to = recv.data();
  for (size_t r = 0; r < group_->memory_.size(); ++r) {
    const auto sizes = group_->sizes_[r];
    const size_t begin = std::accumulate(sizes.begin(), sizes.begin() + rank_, size_t{0});
    std::memcpy(to, group_->memory_[r] + begin, recv_sizes[r]);
    to += recv_sizes[r];
  }
  group_->barrier();
}

void LoopbackExchange::do_all_reduce_mean(View x) {
  const size_t bytes = x.numel * size_of(x.dtype);
  std::vector<uint8_t> mine(bytes);
  if (bytes) std::memcpy(mine.data(), x.data, bytes);
  group_->memory_[static_cast<size_t>(rank_)] = mine.data();
  group_->barrier();
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    const auto share = static_cast<typename E::State>(1.0 / size());
    for (size_t i = 0; i < x.numel; ++i) {
      typename E::State sum = 0;
      for (const uint8_t* peer : group_->memory_)
        sum += E::load(peer, i) * share;  // rank order: the same bits everywhere
      E::store(x.data, i, sum);
    }
  });
  group_->barrier();
}

}  // namespace tsq
