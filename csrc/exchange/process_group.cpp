#include "exchange/process_group.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <algorithm>
#include <deque>

#include "common/torch_dtype.h"

namespace tsq {

namespace {

at::Tensor wrap(const uint8_t* data, size_t bytes) {
  return at::from_blob(const_cast<uint8_t*>(data), {static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
}

class ProcessGroupExchange final : public Exchange {
 public:
  ProcessGroupExchange(c10::intrusive_ptr<c10d::ProcessGroup> group, std::chrono::milliseconds timeout)
      : group_(std::move(group)), timeout_(timeout) {}

  int rank() const override { return group_->getRank(); }
  int size() const override { return group_->getSize(); }

 private:
  using Work = c10::intrusive_ptr<c10d::Work>;

  static void wait(const Work& work) {
    if (work) work->wait();  // some backends return a null Work for a finished collective
  }

  // Note [Large messages]. Gloo writes a whole message to its socket at once. On a slow link that fills the queue in
  // front of it, packets drop, and the transfer takes up to 1.5 times what the link would need. So large messages
  // travel as a train of small collectives, of which kWindow are under way: enough to keep the link busy, too few to
  // flood it. The cuts depend on sizes that all ranks know.
  static constexpr size_t kChunk = size_t{256} << 10;
  static constexpr size_t kWindow = 2;

  /// Runs start(k) for k = 0..count-1 with kWindow of them under way, and finish(k) as each is done, in order.
  template <class Start, class Finish>
  static void train(size_t count, Start&& start, Finish&& finish) {
    std::deque<Work> under_way;
    for (size_t k = 0; k < count + kWindow; ++k) {
      if (k >= kWindow && !under_way.empty()) {
        wait(under_way.front());
        under_way.pop_front();
        finish(k - kWindow);
      }
      if (k < count) under_way.push_back(start(k));
    }
  }

  Work gather(at::Tensor in, at::Tensor out) {
    c10d::AllgatherOptions options;
    options.timeout = timeout_;
    return group_->all_gather_single(out, in, options);
  }

  void do_all_gather(Bytes mine, MutableBytes all) override {
    const size_t count = std::max<size_t>(1, (mine.size() + kChunk - 1) / kChunk);
    if (count == 1) return wait(gather(wrap(mine.data(), mine.size()), wrap(all.data(), all.size())));
    const size_t world = static_cast<size_t>(size());
    const auto part = [&](size_t k) { return Range{mine.size() * k / count, mine.size() * (k + 1) / count}; };
    staging_.resize(kWindow * world * (mine.size() / count + 1));
    const auto slot = [&](size_t k) { return staging_.data() + k % kWindow * (staging_.size() / kWindow); };
    train(
        count,
        [&](size_t k) {
          return gather(wrap(mine.data() + part(k).begin, part(k).size()), wrap(slot(k), world * part(k).size()));
        },
        [&](size_t k) {
          for (size_t r = 0; r < world; ++r)
            std::memcpy(all.data() + r * mine.size() + part(k).begin, slot(k) + r * part(k).size(), part(k).size());
        });
  }

  // Their memory is the tensors' own: it lives for as long as the transport may write to it, whatever happened to us.
  void do_start_all_gather(Bytes mine) override {
    const auto bytes = static_cast<int64_t>(mine.size());
    Started next{at::empty({bytes}, at::kByte), at::empty({bytes * size()}, at::kByte), {}};
    std::memcpy(next.in.data_ptr(), mine.data(), mine.size());
    next.work = gather(next.in, next.out);
    started_.push_back(std::move(next));
  }

  void do_finish_all_gather(MutableBytes all) override {
    const Started first = std::move(started_.front());
    started_.pop_front();
    wait(first.work);
    std::memcpy(all.data(), first.out.data_ptr(), all.size());
  }

  void do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                     std::span<const size_t> recv_sizes) override {
    const size_t largest = *std::max_element(send_sizes.begin(), send_sizes.end());
    const size_t count = std::max<size_t>(1, (largest + kChunk - 1) / kChunk);
    c10d::AllToAllOptions options;
    options.timeout = timeout_;
    if (count == 1) {
      at::Tensor in = wrap(send.data(), send.size()), out = wrap(recv.data(), recv.size());
      std::vector<int64_t> in_splits(send_sizes.begin(), send_sizes.end());
      std::vector<int64_t> out_splits(recv_sizes.begin(), recv_sizes.end());
      return wait(group_->all_to_all_single(out, in, out_splits, in_splits, options));
    }
    const size_t in_room = send.size() / count + send_sizes.size(), out_room = recv.size() / count + recv_sizes.size();
    staging_.resize(kWindow * (in_room + out_room));
    const auto in_slot = [&](size_t k) { return staging_.data() + k % kWindow * (in_room + out_room); };
    const auto out_slot = [&](size_t k) { return in_slot(k) + in_room; };
    std::vector<std::vector<int64_t>> in_splits(count), out_splits(count);
    train(
        count,
        [&](size_t k) {
          const size_t sent = copy_parts(send_sizes, k, count, in_splits[k], [&](size_t at, size_t packed, size_t n) {
            std::memcpy(in_slot(k) + packed, send.data() + at, n);
          });
          const size_t received = copy_parts(recv_sizes, k, count, out_splits[k], [](size_t, size_t, size_t) {});
          at::Tensor in = wrap(in_slot(k), sent), out = wrap(out_slot(k), received);
          return group_->all_to_all_single(out, in, out_splits[k], in_splits[k], options);
        },
        [&](size_t k) {
          copy_parts(recv_sizes, k, count, out_splits[k], [&](size_t at, size_t packed, size_t n) {
            std::memcpy(recv.data() + at, out_slot(k) + packed, n);
          });
        });
  }

  struct Range {
    size_t begin, end;
    size_t size() const { return end - begin; }
  };

  /// Of parts of the given sizes that stand one after another: calls copy(place, place among the pieces, length) for
  /// the k-th of `count` pieces of each part. Returns the sum of the lengths, and the lengths in `splits`.
  template <class Copy>
  static size_t copy_parts(std::span<const size_t> sizes, size_t k, size_t count, std::vector<int64_t>& splits,
                           Copy&& copy) {
    size_t place = 0, packed = 0;
    splits.clear();
    for (const size_t size : sizes) {
      const size_t begin = size * k / count, n = size * (k + 1) / count - begin;
      copy(place + begin, packed, n);
      splits.push_back(static_cast<int64_t>(n));
      place += size;
      packed += n;
    }
    return packed;
  }

  void do_all_reduce_mean(View x) override {
    std::vector<at::Tensor> tensors = {
        at::from_blob(x.data, {static_cast<int64_t>(x.numel)}, at::TensorOptions().dtype(to_scalar_type(x.dtype)))};
    tensors[0].mul_(1.0 / size());
    c10d::AllreduceOptions options;
    options.timeout = timeout_;
    wait(group_->allreduce(tensors, options));
  }

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  const std::chrono::milliseconds timeout_;
  struct Started {
    at::Tensor in, out;
    Work work;
  };
  std::deque<Started> started_;
  std::vector<uint8_t> staging_;  // outlives a collective that failed
};

}  // namespace

std::unique_ptr<Exchange> make_process_group_exchange(c10::intrusive_ptr<c10d::ProcessGroup> group,
                                                      std::chrono::milliseconds timeout) {
  return std::make_unique<ProcessGroupExchange>(std::move(group), timeout);
}

}  // namespace tsq
