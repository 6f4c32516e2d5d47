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

void LoopbackGroup::enter(int rank, const void* memory, std::span<const size_t> sizes) {
  std::unique_lock lock(mutex_);
  if (broken_) throw std::runtime_error("loopback: a peer is gone");
  memory_[static_cast<size_t>(rank)] = static_cast<const uint8_t*>(memory);
  sizes_[static_cast<size_t>(rank)] = sizes;
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

void LoopbackGroup::leave(bool fits) {
  std::unique_lock lock(mutex_);
  const uint64_t generation = generation_;
  if (++waiting_ == size_) {
    waiting_ = 0;
    ++generation_;
    changed_.notify_all();
  } else {
    changed_.wait(lock, [&] { return generation_ != generation; });
  }
  if (fits) return;
  broken_ = true;
  changed_.notify_all();
  throw std::runtime_error("loopback: a peer's collective or its size is another than this rank's");
}

void LoopbackExchange::do_all_gather(Bytes mine, MutableBytes all) {
  const size_t size = mine.size();
  group_->enter(rank_, mine.data(), {&size, 1});
  bool fits = true;
  for (const auto& sizes : group_->sizes_) fits = fits && sizes.size() == 1 && sizes[0] == size;
  for (size_t r = 0; fits && r < group_->memory_.size(); ++r)
    std::memcpy(all.data() + r * size, group_->memory_[r], size);
  group_->leave(fits);
}

void LoopbackExchange::do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                                     std::span<const size_t> recv_sizes) {
  group_->enter(rank_, send.data(), send_sizes);
  bool fits = true;
  for (size_t r = 0; r < recv_sizes.size(); ++r)
    fits = fits && group_->sizes_[r].size() == recv_sizes.size() &&
           group_->sizes_[r][static_cast<size_t>(rank_)] == recv_sizes[r];
  uint8_t* to = recv.data();
  for (size_t r = 0; fits && r < recv_sizes.size(); ++r) {
    const auto sizes = group_->sizes_[r];
    const size_t begin = std::accumulate(sizes.begin(), sizes.begin() + rank_, size_t{0});
    std::memcpy(to, group_->memory_[r] + begin, recv_sizes[r]);
    to += recv_sizes[r];
  }
  group_->leave(fits);
}

void LoopbackExchange::do_all_reduce_mean(View x) {
  const size_t bytes = x.numel * size_of(x.dtype);
  std::vector<uint8_t> mine(bytes);
  if (bytes) std::memcpy(mine.data(), x.data, bytes);
  group_->enter(rank_, mine.data(), {&bytes, 1});
  bool fits = true;
  for (const auto& sizes : group_->sizes_) fits = fits && sizes.size() == 1 && sizes[0] == bytes;
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    const auto share = static_cast<typename E::State>(1.0 / size());
    for (size_t i = 0; fits && i < x.numel; ++i) {
      typename E::State sum = 0;
      for (const uint8_t* peer : group_->memory_)
        sum += E::load(peer, i) * share;  // rank order: the same bits everywhere
      E::store(x.data, i, sum);
    }
  });
  group_->leave(fits);
}

}  // namespace tsq
