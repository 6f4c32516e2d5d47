// The contract of a mechanism: the stateful rule between a gradient and its compressor, in two halves, sender and
// receiver.
//
// A Mechanism is immutable; the state it works on belongs to the caller (one set per parameter). It sees one section at
// a time and never a rank's process group or a thread. mechanisms/section.h puts sections into messages.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "compressors/compressor.h"

namespace tsq {

class Mechanism {
 public:
  virtual ~Mechanism() = default;

  /// The spec that parses back to this mechanism.
  virtual std::string spec() const = 0;

  /// What codes the sections, all open choices made.
  virtual const Compressor& compressor() const = 0;

  /// Names of the sender's state vectors, each as long as the section and of state_dtype. Start at zero.
  virtual std::span<const char* const> state_names() const = 0;

  /// One step of the worker: compresses x, updates the state, writes the payload. x is finite if there is state.
  virtual Compressor::Encoded send(ConstView x, std::span<const View> state, const EncodeKey& key,
                                   MutableBytes out) const = 0;

  /// Takes a send back that will not be delivered: the state is as before it, to rounding; x and payload are those of
  /// the send.
  virtual void retract(Bytes payload, ConstView x, std::span<const View> state) const = 0;

  /// One step of the receiver: `out` is the estimate of the mean, bit-identical wherever the same payloads come in.
  virtual void receive(std::span<const Bytes> payloads, View out) const { compressor().decode_mean(payloads, out); }
};

using MechanismPtr = std::shared_ptr<const Mechanism>;

}  // namespace tsq
