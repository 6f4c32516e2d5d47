// The data path of one rank: bucket in, mean over all ranks out. Knows parameters, mechanisms and an exchange; no
// torch, no thread.
//
//   all_gather   send to everybody, receive W messages, average
//   sharded      send to each part's owner; the owner averages, compresses again, sends to everybody
//   (docs/algorithms.md) dense        all-reduce of the bucket itself
//
// State is kept per parameter, not per bucket: DDP may rebuild its buckets at any time and nothing has to move.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/buffer.h"
#include "exchange/exchange.h"
#include "hook/layout.h"
#include "mechanisms/section.h"

namespace tsq {

enum class ExchangeKind : uint8_t { kDense, kAllGather, kSharded };

struct AveragerConfig {
  ExchangeKind exchange = ExchangeKind::kAllGather;
  uint64_t seed = 0;
  /// With DDP's find_unused_parameters: a parameter without a gradient in this step (all zero here) keeps its residual,
  /// because DDP throws the result away if no rank used it.
  bool hold_unused = false;
};

struct AveragerStats {
  uint64_t calls = 0;        ///< buckets averaged
  uint64_t dense_calls = 0;  ///< of these, by all-reduce
  uint64_t dense_bytes = 0;  ///< what a ring all-reduce of the same buckets sends from one rank
  uint64_t non_finite = 0;   ///< parameters (or parts) delivered as NaN because a rank had an Inf or NaN
  uint64_t state_bytes = 0;
  uint64_t buffer_bytes = 0;  ///< memory for messages and averages
  double encode_seconds = 0, exchange_seconds = 0, decode_seconds = 0;
  Traffic traffic;
};

/// A state vector of one parameter: the worker's over the whole parameter, the owner's over the part that this rank
/// owns.
struct StateRef {
  uint32_t parameter = 0;
  bool owner = false;
  std::string name;
  size_t begin = 0;
  View view;
};

/// One caller at a time; stats() from any thread.
class Averager {
 public:
  Averager(std::vector<Parameter> parameters, const AveragerConfig& config, std::unique_ptr<Exchange> exchange);

  /// buffer = mean over ranks of buffer. `ids`: the parameters in it, in order, without gaps. Collective.
  /// If it throws, state is as before the call (to rounding) and the exchange must not be used any more.
  void average(std::span<const uint32_t> ids, View buffer);

  /// While off, buckets travel by all-reduce and state rests. Takes effect with the next bucket; the same on all ranks.
  void set_enabled(bool enabled) { enabled_ = enabled; }

  /// Multiplies all state, for a change of loss scale (state is in units of the scaled loss).
  void scale_state(double factor);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  Exchange& exchange() { return *exchange_; }
  AveragerStats stats() const;

  std::vector<StateRef> state();
  std::vector<uint64_t>& steps() { return steps_; }  ///< by parameter: how often it was sent

 private:
  struct Slots {
    std::vector<Buffer> buffers;
    std::vector<View> views;
    size_t begin = 0;  ///< place of the first element in the parameter
  };
  /// A section that was sent and may have to be taken back.
  struct Sent {
    const Piece* piece;
    bool owner;   ///< of the average, in the owner's state; else of the gradient, in the worker's
    ConstView x;  ///< what was compressed; stays as it is until the bucket is delivered
    Bytes payload;
    bool changed_state;  ///< false: marked or held
  };

  static Slots make_slots(const Mechanism& mechanism, size_t numel, DType dtype, size_t begin);
  const Layout& layout_of(std::span<const uint32_t> ids, DType dtype);
  std::vector<View> state_of(const Slots& slots, const Piece& piece) const;
  void inspect_all(const Layout& layout, ConstView buffer);
  size_t send_shard(const Shard& shard, ConstView buffer, MutableBytes out);
  std::vector<wire::Message> check_messages(std::span<const Bytes> messages, const Shard& shard, wire::Kind kind,
                                            DType dtype, int first_rank) const;
  wire::Section send_piece(const Piece& piece, bool owner, Delivery delivery, ConstView x, MutableBytes payload);
  void retract(const Sent& sent);
  void average_dense(View buffer);
  void average_all_gather(const Layout& layout, View buffer);
  void average_sharded(const Layout& layout, View buffer);
  /// The lengths of everybody's messages, in rank order.
  std::vector<size_t> gather_lengths(std::span<const size_t> mine);
  /// Everybody's message. The first `length` bytes of the arena are mine; limits: what each rank's may be at most
  /// (fixed size: what it is).
  std::vector<Bytes> gather_messages(Bytes arena_with_mine, size_t length, std::span<const size_t> limits);
  /// Everybody's message for the shard that this rank owns. `out`: mine for every owner, each in room for its maximum.
  std::vector<Bytes> exchange_shards(Bytes out, const Layout& layout, std::span<const size_t> lengths);
  size_t average_own_shard(const Shard& shard, std::span<const Bytes> received, DType dtype, MutableBytes out);
  void deliver(const Shard& shard, std::span<const wire::Message> messages, bool averages, View buffer,
               size_t first_sent);
  MutableBytes arena(std::vector<uint8_t>& memory, size_t bytes);

  std::vector<Parameter> parameters_;
  const AveragerConfig config_;
  std::unique_ptr<Exchange> exchange_;
  bool enabled_ = true;
  bool all_identity_ = true;
  bool fixed_size_ = true;             // all lengths follow from the layout; else they are exchanged first
  uint64_t sequence_ = 0;              // of compressed buckets: the step in their messages' headers
  std::vector<Slots> worker_, owner_;  // by parameter
  std::vector<uint64_t> steps_;        // by parameter
  std::vector<Delivery> delivery_;     // by parameter, of the current bucket
  std::vector<Sent> sent_;             // of the current bucket, in the order of sections
  std::map<std::pair<std::vector<uint32_t>, DType>, Layout> layouts_;
  std::vector<uint8_t> send_memory_, pack_memory_, receive_memory_, average_memory_, mean_memory_;

  mutable std::mutex stats_mutex_;
  AveragerStats stats_;
};

}  // namespace tsq
