// Messages of one bucket through an exchange: fixed lengths as they are; lengths that depend on data are agreed first,
// so that every rank takes the same branch, and everything is padded to the longest. A message of length 0 stands for
// "nothing but skipped sections"; if all are, nothing travels. Messages and lengths have seals (exchange/sealed.h),
// which are made and checked here.
#pragma once

#include <span>
#include <vector>

#include "common/bytes.h"
#include "exchange/sealed.h"

namespace tsq {

/// The first `bytes` bytes of `memory`, made larger if need be.
MutableBytes arena(std::vector<uint8_t>& memory, size_t bytes);

class Transport {
 public:
  explicit Transport(Exchange& exchange) : exchange_(exchange) {}

  /// The memory that a message of at most `limit` bytes is written to: its seal goes behind it.
  static constexpr size_t room(size_t limit) { return limit + kSealBytes; }

  /// Everybody's message in rank order, valid until the next call. `mine` has room(limits[rank]) bytes, `length` of
  /// them written. limits: what each rank's may be at most (fixed: what it is). Throws WireError, naming the sender,
  /// above that and for what was altered on the way.
  std::vector<Bytes> gather(MutableBytes mine, size_t length, std::span<const size_t> limits, bool fixed);

  /// Everybody's message for the part that this rank owns. `mine`: one for every owner, each in room(limits[owner]);
  /// lengths: what of it was written.
  std::vector<Bytes> to_owners(MutableBytes mine, std::span<const size_t> lengths, std::span<const size_t> limits,
                               bool fixed);

  /// Memory for what arrives, valid until the next call of this or of one that receives.
  MutableBytes receive_memory(size_t bytes) { return arena(receive_, bytes); }

  /// Every rank's numbers, rank after rank. Collective.
  std::vector<size_t> gather_lengths(std::span<const size_t> mine);

  /// Lengths of all ranks' messages without their headers, as far as they were agreed, added up so far: the same on
  /// every rank.
  uint64_t agreed_bytes() const { return agreed_bytes_; }

  size_t buffer_bytes() const { return pack_.size() + receive_.size(); }

 private:
  Exchange& exchange_;
  uint64_t agreed_bytes_ = 0;
  std::vector<uint8_t> pack_, receive_;  // only ever grow
};

/// Throws WireError that names the sender of a message of this length, unless it is at most `limit`.
void check_length(size_t length, size_t limit, size_t sender);

}  // namespace tsq
