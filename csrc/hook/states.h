// What the hook remembers of every parameter on one rank. Per parameter, not per bucket: DDP may rebuild its buckets at
// any time and nothing has to move.
#pragma once

#include <string>
#include <vector>

#include "common/buffer.h"
#include "common/exchange_kind.h"
#include "hook/layout.h"
#include "hook/sharding.h"

namespace tsq {

/// Whose state it is. all_gather: worker's and received; sharded: all four, owner's and received for the part that this
/// rank owns.
enum class Side : uint8_t {
  kWorker,     ///< the sender of gradients
  kReceived,   ///< the receiver of gradients
  kOwner,      ///< the sender of averages
  kDelivered,  ///< the receiver of averages
};
constexpr int kSides = 4;

/// "worker", "received", "owner", "delivered".
const char* name_of(Side side);

/// A state vector of one parameter, over the whole of it or the part from `begin`.
struct StateRef {
  uint32_t parameter = 0;
  Side side = Side::kWorker;
  std::string name;
  size_t begin = 0;
  View view;
};

/// A worker's vector besides its mechanism's: what mechanisms before it owed and it has no place for (carry_state).
/// Added to this rank's next gradient.
constexpr const char* kOwed = "owed";

/// What else a parameter carries from step to step.
struct Progress {
  uint64_t steps = 0;            ///< how often it was averaged compressed
  bool fresh = true;             ///< all its state is zero, on all ranks
  std::vector<double> rates[2];  ///< EncodeKey::rate of the worker's and of the owner's messages, by part; 1 beyond
};

class States {
 public:
  States(const std::vector<Parameter>& parameters, ExchangeKind exchange, uint32_t rank, uint32_t world_size);

  /// The vectors of `side` over a piece of a parameter.
  std::vector<View> of(Side side, const Piece& piece) const;

  /// The vectors of `side` over all that is there of a parameter.
  std::span<const View> of(Side side, uint32_t parameter) const { return slots(side, parameter).views; }

  /// All vectors that have elements on this rank, kOwed included; with_empty: the others too.
  std::vector<StateRef> all(bool with_empty = false) const;

  /// Elements and dtype of a vector over the whole of a parameter.
  std::pair<size_t, DType> shape(uint32_t parameter) const { return shapes_[parameter]; }

  /// What a parameter owes; no elements if nothing.
  View owed(uint32_t parameter) const { return owed_[parameter].view(); }
  /// The same, from now on with an element for each of the parameter's; new ones are zero.
  View owe(uint32_t parameter);
  void settle(uint32_t parameter) { owed_[parameter] = Buffer(); }

  /// The vectors of one side of one parameter, those without elements included.
  std::vector<StateRef> of_side(Side side, uint32_t parameter) const;
  const std::vector<std::string>& names(Side side, uint32_t parameter) const { return slots(side, parameter).names; }

  /// True if a side's vectors are spread over the ranks, a part each.
  bool is_cut(Side side, uint32_t parameter) const { return slots(side, parameter).cut; }

  /// True if every worker's vector that an estimate rests on ("shift") is in both or in none.
  bool same_worker_vectors(const States& other, uint32_t parameter) const;

  Progress& progress(uint32_t parameter) { return progress_[parameter]; }
  const Progress& progress(uint32_t parameter) const { return progress_[parameter]; }

  /// The part of a parameter that a side's vectors cover on this rank.
  Range range(Side side, uint32_t parameter) const;

  size_t bytes() const;

 private:
  struct Slots {
    std::vector<std::string> names;
    std::vector<Buffer> buffers;
    std::vector<View> views;
    size_t begin = 0;  ///< place of the first element in the parameter
    size_t numel = 0;
    bool cut = false;
  };
  const Slots& slots(Side side, uint32_t parameter) const { return slots_[parameter][static_cast<size_t>(side)]; }

  std::vector<std::array<Slots, kSides>> slots_;
  std::vector<std::pair<size_t, DType>> shapes_;
  std::vector<Buffer> owed_;
  std::vector<Progress> progress_;
};

}  // namespace tsq
