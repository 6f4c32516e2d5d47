#include "exchange/process_group.h"

#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "common/torch_dtype.h"

namespace tsq {

namespace {

at::Tensor wrap(const uint8_t* data, size_t bytes) {
  return at::from_blob(const_cast<uint8_t*>(data), {static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
}

std::vector<int64_t> to_splits(std::span<const size_t> sizes) { return {sizes.begin(), sizes.end()}; }

class ProcessGroupExchange final : public Exchange {
 public:
  ProcessGroupExchange(c10::intrusive_ptr<c10d::ProcessGroup> group, std::chrono::milliseconds timeout)
      : group_(std::move(group)), timeout_(timeout) {}

  int rank() const override { return group_->getRank(); }
  int size() const override { return group_->getSize(); }

 private:
  // Some backends return a null Work for a finished collective.
  static void wait(const c10::intrusive_ptr<c10d::Work>& work) {
    if (work) work->wait();
  }

  void do_all_gather(Bytes mine, MutableBytes all) override {
    at::Tensor in = wrap(mine.data(), mine.size()), out = wrap(all.data(), all.size());
    c10d::AllgatherOptions options;
    options.timeout = timeout_;
    wait(group_->all_gather_single(out, in, options));
  }

  void do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                     std::span<const size_t> recv_sizes) override {
    at::Tensor in = wrap(send.data(), send.size()), out = wrap(recv.data(), recv.size());
    std::vector<int64_t> in_splits = to_splits(send_sizes), out_splits = to_splits(recv_sizes);
    c10d::AllToAllOptions options;
    options.timeout = timeout_;
    wait(group_->all_to_all_single(out, in, out_splits, in_splits, options));
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
};

}  // namespace

std::unique_ptr<Exchange> make_process_group_exchange(c10::intrusive_ptr<c10d::ProcessGroup> group,
                                                      std::chrono::milliseconds timeout) {
  return std::make_unique<ProcessGroupExchange>(std::move(group), timeout);
}

}  // namespace tsq
