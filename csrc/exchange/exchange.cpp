#include "exchange/exchange.h"

#include <utility>

namespace tsq {

void Exchange::count(size_t handed, size_t wire) {
  const std::lock_guard lock(mutex_);
  ++traffic_.collectives;
  traffic_.handed_bytes += handed;
  traffic_.wire_bytes += wire;
}

void Exchange::all_gather(Bytes mine, MutableBytes all) {
  count(mine.size(), mine.size() * static_cast<size_t>(size() - 1));
  do_all_gather(mine, all);
}

void Exchange::start_all_gather(Bytes mine) {
  count(mine.size(), mine.size() * static_cast<size_t>(size() - 1));
  do_start_all_gather(mine);
}

void Exchange::do_finish_all_gather(MutableBytes all) {
  const std::vector<uint8_t> mine = std::move(started_.front());
  started_.pop_front();
  do_all_gather(mine, all);
}

void Exchange::all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                          std::span<const size_t> recv_sizes) {
  count(send.size(), send.size() - send_sizes[static_cast<size_t>(rank())]);
  do_all_to_all(send, send_sizes, recv, recv_sizes);
}

void Exchange::all_reduce_mean(View x) {
  const size_t bytes = x.numel * size_of(x.dtype);
  count(bytes, ring_bytes(bytes, size()));
  do_all_reduce_mean(x);
}

Traffic Exchange::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

}  // namespace tsq
