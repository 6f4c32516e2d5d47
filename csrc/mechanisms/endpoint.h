// Sender and Receiver of one flat vector: own loops, tests and the lab use them; no process group needed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/buffer.h"
#include "mechanisms/mechanism.h"
#include "wire/message.h"

namespace tsq {

/// What both ends must agree on.
struct EndpointConfig {
  MechanismPtr mechanism;
  size_t numel = 0;
  uint32_t world_size = 1;
  DType dtype = DType::kFloat32;
  uint64_t seed = 0;
};

/// The worker's half. Owns its state. Not thread-safe.
class Sender {
 public:
  /// Throws ArgumentError if rank >= world_size or world_size is 0.
  Sender(const EndpointConfig& config, uint32_t rank);

  const EndpointConfig& config() const { return config_; }
  uint32_t rank() const { return rank_; }
  uint64_t step() const { return step_; }  ///< sends so far
  size_t max_message_bytes() const;

  /// Writes the message for gradient x (numel elements of dtype) into `out` (>= max_message_bytes()); returns its
  /// length. O(numel), one sweep. A non-finite x marks the message and leaves the state as it was.
  size_t send(ConstView x, MutableBytes out);

  /// State vector i, named by mechanism->state_names(); writable so that checkpoints can be restored.
  View state(size_t i) { return views_[i]; }
  void set_step(uint64_t step) { step_ = step; }

 private:
  EndpointConfig config_;
  uint32_t rank_;
  uint64_t step_ = 0;
  std::vector<Buffer> storage_;
  std::vector<View> views_;
};

/// The half of whoever averages; every receiver of the same messages computes the same bits.
class Receiver {
 public:
  explicit Receiver(const EndpointConfig& config);

  const EndpointConfig& config() const { return config_; }

  /// out = estimate of the mean gradient. One message from every rank, in any order; decoded in rank order.
  /// Throws WireError, with `out` untouched, unless every message is legal and of the step the others are of.
  void receive(std::span<const Bytes> messages, View out) const;

 private:
  EndpointConfig config_;
};

}  // namespace tsq
