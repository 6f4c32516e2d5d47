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

/// State vectors of `numel` elements with names.
class StateVectors {
 public:
  StateVectors() = default;
  StateVectors(const std::vector<std::string>& names, size_t numel, DType dtype) : names_(names) {
    for (size_t i = 0; i < names.size(); ++i) {
      storage_.emplace_back(numel, state_dtype(dtype));
      views_.push_back(storage_.back().view());
    }
  }
  const std::vector<std::string>& names() const { return names_; }
  std::span<const View> views() const { return views_; }
  size_t size() const { return views_.size(); }

 private:
  std::vector<std::string> names_;
  std::vector<Buffer> storage_;
  std::vector<View> views_;
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
  /// length. O(numel). A non-finite x marks the message and leaves the state as it was. `chooser`: EncodeKey::chooser.
  size_t send(ConstView x, MutableBytes out, const EntryChooser* chooser = nullptr);

  /// State vectors, named by mechanism->state_names(); writable so that checkpoints can be restored.
  const StateVectors& state() const { return state_; }
  View state(size_t i) { return state_.views()[i]; }
  void set_step(uint64_t step) { step_ = step; }

  /// What rate-controlled compressors are told (EncodeKey::rate), by part of the message; part of the state.
  const std::vector<double>& rates() const { return rates_; }
  void set_rates(std::vector<double> rates) { rates_ = std::move(rates); }

  /// Of the last message: which level of a ladder it was, -1 without levels.
  int level() const { return level_; }
  /// And what its chooser chose, if there was one and it had a say.
  const std::optional<Compressor::Choice>& choice() const { return choice_; }

 private:
  EndpointConfig config_;
  uint32_t rank_;
  uint64_t step_ = 0;
  std::vector<double> rates_;
  int level_ = -1;
  std::optional<Compressor::Choice> choice_;
  StateVectors state_;
};

/// The half of whoever averages; every receiver of the same messages computes the same bits. Not thread-safe.
class Receiver {
 public:
  explicit Receiver(const EndpointConfig& config);

  const EndpointConfig& config() const { return config_; }
  uint64_t step() const { return step_; }  ///< of the next messages, if there is state
  const StateVectors& state() const { return state_; }
  void set_step(uint64_t step) { step_ = step; }

  /// out = estimate of the mean gradient. One message from every rank, in any order; decoded in rank order.
  /// Throws WireError, with `out` and state untouched, unless every message is legal and of one step; with state, of
  /// the step that follows the last one.
  void receive(std::span<const Bytes> messages, View out);

 private:
  EndpointConfig config_;
  uint64_t step_ = 0;
  StateVectors state_;
};

}  // namespace tsq
