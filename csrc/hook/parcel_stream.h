// A large bucket's messages on their way to everybody, several one after the other.
//
// Note [Parcels]. A bucket of 20 MB is one parameter, more often than not, and DDP hands it over when the backward pass
// ends: encoding all of it, then sending all of it, then decoding all of it leaves the link idle while a core works and
// the core idle while the link works. So such a bucket is cut into parcels (Layout::parcels), each a message of its
// own; while some travel, later ones are encoded and earlier ones decoded. Cutting changes no bit of what is delivered
// or kept: only mechanisms that say so (Mechanism::divisible) are cut.
//
// Lengths that depend on data have to be known before a frame is sent. Asking for every one would cost a round trip per
// parcel, so that of parcel p + 2 travels behind parcel p, and only the first two are agreed on before; two frames are
// under way, and no round trip is waited for where the link has work. The first parcels are small, so that they leave
// soon.
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "common/clock.h"
#include "hook/transport.h"

namespace tsq {

/// One caller, who calls add() for each parcel in turn, as far as ahead() says, and receive() for each in turn. The
/// same calls on every rank, with lengths of their own.
class ParcelStream {
 public:
  /// The memory that a message of at most `limit` bytes is written to.
  static constexpr size_t room(size_t limit) { return Transport::room(limit) + kNextBytes; }

  /// limits: of each parcel's message, what it may be at most (fixed: what it is), on every rank.
  ParcelStream(Exchange& exchange, Transport& transport, std::vector<size_t> limits, bool fixed, const Clock& clock);

  /// How many parcels must have been added before receive() is called for the p-th: so many as keep the link busy.
  size_t ahead(size_t p) const { return std::min(limits_.size(), p + kAhead); }

  /// The next message, `length` bytes (0: nothing but skipped sections), in room() of its limit; stays there until
  /// it was received. Starts what can be started. Throws what the exchange throws, and WireError.
  void add(MutableBytes memory, size_t length);

  /// Everybody's message of the next parcel in rank order, in the transport's memory, valid until the next call; empty
  /// where the length is 0.
  std::vector<Bytes> receive();

  /// Seconds that the frames took on their way, by those that were waited for: when another arrived is not known. Where
  /// they are too few (the link is faster than what makes and reads messages) no more than was waited.
  double travelled() const;
  /// Seconds that were waited.
  double waited() const { return waited_; }

 private:
  static constexpr size_t kNextBytes = 8;  // behind a message whose length is not fixed: that of the next but one
  static constexpr size_t kAhead = 2 * Exchange::kUnderWay + 1;

  struct Own {
    MutableBytes memory;
    size_t length;
  };
  struct Started {
    size_t frame;
    double at;
  };

  void agree_on_first();
  bool can_start() const;
  void start();
  size_t longest(size_t parcel) const;
  void take_lengths(size_t parcel, std::span<const size_t> lengths);

  Exchange& exchange_;
  Transport& transport_;
  const std::vector<size_t> limits_;
  const bool fixed_;
  const Clock& clock_;
  const size_t world_;
  std::vector<Own> own_;                      // added so far
  std::vector<std::vector<size_t>> lengths_;  // by parcel, as far as they are known: by rank
  std::deque<Started> under_way_;
  size_t started_ = 0, received_ = 0;
  double last_arrival_ = 0, waited_ = 0, agreement_ = 0;
  struct Sum {
    double bytes = 0, seconds = 0;
  };
  Sum timed_, all_;  // frames whose arrival was seen, and all
};

}  // namespace tsq
