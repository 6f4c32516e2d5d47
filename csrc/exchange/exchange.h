// The collectives that messages travel by. The only room that calls any; every byte of gradients handed to one is
// counted here.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <vector>

#include "common/bytes.h"
#include "common/dtype.h"

namespace tsq {

/// What this rank has handed to collectives so far.
struct Traffic {
  uint64_t collectives = 0;
  uint64_t handed_bytes = 0;  ///< sizes of the buffers given to collectives by this rank
  uint64_t wire_bytes = 0;    ///< bytes that leave this rank: all_gather (W-1) * own, all_to_all what goes to others,
                              ///< all_reduce 2 (W-1)/W * own (a ring)
};

/// Collectives over `size()` ranks. Blocking; throws what the transport throws (time-outs included), after which the
/// object must not be used again. Every rank must make the same calls in the same order with matching sizes. One caller
/// at a time, except traffic(), which may be called from any thread.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// all = concatenation of every rank's `mine` in rank order; all.size() = size() * mine.size(), mine not empty.
  void all_gather(Bytes mine, MutableBytes all);

  /// The same for what is no gradient (agreements): not counted.
  void all_gather_uncounted(Bytes mine, MutableBytes all) { do_all_gather(mine, all); }

  /// An all_gather that is only begun: `mine` is copied. At most kUnderWay at a time; other collectives may come
  /// between start and finish, at the same place on every rank.
  void start_all_gather(Bytes mine);
  /// Waits for the one that was started first and writes what it brought.
  void finish_all_gather(MutableBytes all) { do_finish_all_gather(all); }
  static constexpr size_t kUnderWay = 2;

  /// Rank r gets the r-th part of `send` (send_sizes[r] bytes) and puts it where recv_sizes says. send_sizes is the
  /// same on every rank, so recv_sizes[i] = send_sizes[rank()] for all i. Neither side empty.
  void all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                  std::span<const size_t> recv_sizes);

  /// x = mean over ranks, in place, in x's dtype: multiplied by 1/size() first and then summed, the order of the sum
  /// being the transport's, so that over a process group the bits are those of DDP without a hook.
  void all_reduce_mean(View x);

  Traffic traffic() const;

 protected:
  virtual void do_all_gather(Bytes mine, MutableBytes all) = 0;
  virtual void do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                             std::span<const size_t> recv_sizes) = 0;
  virtual void do_all_reduce_mean(View x) = 0;
  /// As they are: nothing happens before the second.
  virtual void do_start_all_gather(Bytes mine) { started_.emplace_back(mine.begin(), mine.end()); }
  virtual void do_finish_all_gather(MutableBytes all);

 private:
  void count(size_t handed, size_t wire);

  mutable std::mutex mutex_;
  Traffic traffic_;
  std::deque<std::vector<uint8_t>> started_;  // where do_start_all_gather is the one above
};

/// Bytes that a ring all-reduce of `bytes` sends from each of `size` ranks: what plain DDP would have cost.
constexpr uint64_t ring_bytes(uint64_t bytes, int size) {
  return 2 * bytes * static_cast<uint64_t>(size - 1) / static_cast<uint64_t>(size);
}

}  // namespace tsq
