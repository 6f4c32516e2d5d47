// The contract of a mechanism: the stateful rule between a gradient and its compressor, in two halves, sender and
// receiver.
//
// A Mechanism is immutable; the state it works on belongs to the caller (one set per parameter). It sees one slice of a
// parameter at a time and never a rank's process group or a thread. mechanisms/section.h puts slices into messages.
//
// A slice travels as parts() sections of a message, one in most mechanisms. What the sections say is enough to decode
// them: a sender may choose its compressor anew in every step.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compressors/compressor.h"
#include "smoothness/smoothness.h"

namespace tsq {

/// The step of a slice. For receivers `encode` is the key of what is encoded there, if anything (Bidirectional).
struct StepKey {
  EncodeKey encode;
  bool first = false;     ///< all state is zero on all ranks, and they all know
  bool inspected = true;  ///< the gradient has passed inspect() (section.h); else Mechanism::inspects() must be true
};

/// The sections that a sender writes for one slice, front to back. Does not own the memory.
class Parts {
 public:
  /// rates: EncodeKey::rate by section, 1 for those beyond; must outlive this.
  Parts(size_t numel, MutableBytes out, std::span<const double> rates = {}) : numel_(numel), out_(out), rates_(rates) {}

  /// Where the next payload goes: all that is left.
  MutableBytes room() const { return out_.subspan(used_); }

  /// The key that the next section is encoded with.
  EncodeKey keyed(EncodeKey key) const {
    if (sections_.size() < rates_.size()) key.rate = rates_[sections_.size()];
    return key;
  }

  /// Adds the section whose `bytes` bytes were written to room(), by this compressor.
  void add(const Compressor& c, size_t bytes) {
    add(c.format(), bytes);
    targets_.back() = c.target_bits();
  }
  void add(const wire::Format& format, size_t bytes, bool whole = false) {
    wire::Section section;
    section.format = format;
    section.whole = whole;
    section.numel = numel_;
    section.bytes = bytes;
    sections_.push_back(section);
    targets_.push_back(std::nullopt);
    used_ += bytes;
  }
  /// The same, of what an encoding wrote there.
  void add(const Compressor& c, const Compressor::Encoded& sent) {
    add(c, sent.bytes);
    choice_ = sent.choice;
  }
  /// What EncodeKey::chooser chose for the last section that it had a say in.
  const std::optional<Compressor::Choice>& choice() const { return choice_; }
  void set_choice(const Compressor::Choice& choice) { choice_ = choice; }

  /// Which level of a ladder was sent, 0 for none: for statistics.
  void set_level(int level) { level_ = level; }
  int level() const { return level_; }  ///< -1: the mechanism has no levels

  void skip() { add({.codec = wire::Codec::kNothing}, 0); }
  void clear() { sections_.clear(), targets_.clear(), used_ = 0, choice_.reset(); }

  std::vector<wire::Section>& sections() { return sections_; }
  const std::vector<wire::Section>& sections() const { return sections_; }
  /// By section: the bits per element that its compressor aims at; none: it does not aim.
  const std::vector<std::optional<double>>& targets() const { return targets_; }
  size_t bytes() const { return used_; }
  size_t numel() const { return numel_; }
  Bytes payload() const { return out_.first(used_); }

 private:
  size_t numel_;
  MutableBytes out_;
  std::span<const double> rates_;
  size_t used_ = 0;
  int level_ = -1;
  std::optional<Compressor::Choice> choice_;
  std::vector<wire::Section> sections_;
  std::vector<std::optional<double>> targets_;  // by section
};

/// What has arrived from one rank for one slice: parts() sections and their payloads, checked.
struct Arrived {
  std::span<const wire::Section> sections;
  std::span<const Bytes> payloads;
  bool non_finite() const { return !sections.empty() && sections[0].non_finite; }
};

/// The constants of a three point compressor, E|C(x) - x|^2 <= (1 - A)|h - y|^2 + B |x - y|^2 (docs/algorithms.md).
struct ThreePoint {
  double A = 1, B = 0;
};

/// What is known of the workers' losses on a vector of numel elements: one smoothness that is common to all ranks (or,
/// for a sender, its own), or one per rank.
struct SmoothnessSet {
  std::vector<SmoothnessPtr> of_rank;
  size_t numel = 0;
  uint32_t world_size = 1;
};

class Mechanism;
using MechanismPtr = std::shared_ptr<const Mechanism>;

class Mechanism {
 public:
  virtual ~Mechanism() = default;

  /// This mechanism for whole vectors of given.numel elements and losses of known smoothness. Throws ArgumentError if
  /// it takes none, if a smoothness is of another size, or if there are neither one nor world_size of them.
  virtual MechanismPtr with_smoothness(const SmoothnessSet& given) const;

  /// The kind of smoothness that its spec asks for and that it still lacks; null: none.
  virtual const char* lacks_smoothness() const { return nullptr; }

  /// Throws ArgumentError if vectors of n elements cannot be sent.
  void check_numel(size_t n) const;

  /// The spec that parses back to this mechanism.
  virtual std::string spec() const = 0;

  /// The compressor that the theory of the mechanism is about, all open choices made.
  virtual const Compressor& compressor() const = 0;

  // ---- what travels
  virtual size_t parts() const { return 1; }

  /// What may code the sections of `part`, the usual one first.
  virtual std::vector<CompressorPtr> codecs(size_t part) const = 0;

  /// True if the slice of the first step may travel whole.
  virtual bool starts_dense() const { return false; }

  /// True if the first part of a step may be a whole vector (wire::Section::whole).
  virtual bool may_send_whole(bool first) const { return first && starts_dense(); }

  /// Hard maximum of the payloads of a slice in a step.
  virtual size_t max_bytes(size_t n, DType dtype, bool first) const;

  /// True if every step's payloads have max_bytes: then lengths need not be exchanged.
  virtual bool has_fixed_size(bool first) const;

  virtual double expected_bits(size_t n, DType dtype) const;

  size_t granularity() const;

  /// True if slices that begin at multiples of granularity(), sent one by one with common_step() of the whole in their
  /// keys, deliver together what the whole would, and change its state alike.
  virtual bool divisible() const { return false; }
  virtual std::optional<float> common_step(ConstView, std::span<const View> /*state*/, const EncodeKey&) const {
    return std::nullopt;
  }

  /// True if EncodeKey::chooser has a say in what is sent.
  virtual bool takes_chooser() const;

  // ---- state
  /// Names of the sender's and the receiver's state vectors, each as long as the slice and of state_dtype. They start
  /// at zero. The same name means the same thing in every mechanism: "residual" (owed), "shift" (the receiver's
  /// knowledge of this rank's gradient), "gradient" (the previous one), "momentum"; "estimate" (the mean of shifts).
  const std::vector<std::string>& state_names() const { return state_names_; }
  const std::vector<std::string>& receiver_names() const { return receiver_names_; }

  // ---- the sender's half
  /// One step of the worker: compresses x, updates the state, adds parts() sections. x is finite if there is state and
  /// key.inspected. False: part of what was to be encoded was not finite, or inspect() would have marked it; the state
  /// is as it was and nothing counts as sent.
  virtual bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const = 0;

  /// True if send() takes an x that has not been inspected: it looks at it in a sweep that it makes anyway.
  virtual bool inspects() const { return false; }

  /// Takes a send back that will not be delivered: the state is as before it, to rounding. x and `sent` are those of
  /// the send. False if this mechanism cannot.
  virtual bool retract(const Arrived& sent, ConstView x, std::span<const View> state) const = 0;

  // ---- the receiver's half
  /// True if a receiver uses what the others sent even if one rank's section is marked and the step delivers NaN:
  /// senders' and receivers' state then go on together. False: the senders retract.
  bool keeps_pace() const { return !receiver_names_.empty(); }

  /// One step: `out` becomes the estimate of the mean, bit-identical wherever the same payloads come in. `from`: one
  /// per rank, in rank order; if one is marked, only the state is advanced and `out` is not touched.
  virtual void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key,
                       View out) const = 0;

  // ---- as a part of another mechanism
  /// True if what it sends is what its "shift" moves by: ThreePC and Ada3PC are made of such.
  virtual bool moves_shift() const { return false; }

  // ---- theory
  /// A and B on n elements and world_size ranks, for mechanisms that are three point compressors.
  virtual std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const;

 protected:
  explicit Mechanism(std::vector<std::string> state_names = {}, std::vector<std::string> receiver_names = {})
      : state_names_(std::move(state_names)), receiver_names_(std::move(receiver_names)) {}

 private:
  std::vector<std::string> state_names_, receiver_names_;
};

/// True if any of them is marked.
bool any_non_finite(std::span<const Arrived> from);

/// What reads this section: `usual` if the format is its own.
CompressorPtr reader_of(const wire::Section& section, const CompressorPtr& usual);

}  // namespace tsq
