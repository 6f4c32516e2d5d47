// Bidirectional(up, down): workers send by `up`; whoever averages sends the average by `down`; everybody uses what came
// down. In the sharded exchange the owner of a shard is the server of it. A Receiver of its own loop plays server and
// client at once. EF21-BC: Fatkhullin et al. 2021. docs/algorithms.md.
#pragma once

#include "mechanisms/mechanism.h"

namespace tsq {

class Bidirectional final : public Mechanism {
 public:
  /// Throws ArgumentError if one of them is bidirectional itself.
  Bidirectional(MechanismPtr up, MechanismPtr down);

  const MechanismPtr& up() const { return up_; }
  const MechanismPtr& down() const { return down_; }

  std::string spec() const override { return "Bidirectional(" + up_->spec() + ", " + down_->spec() + ")"; }
  const Compressor& compressor() const override { return up_->compressor(); }
  const char* lacks_smoothness() const override {
    return up_->lacks_smoothness() ? up_->lacks_smoothness() : down_->lacks_smoothness();
  }
  size_t parts() const override { return up_->parts(); }
  std::vector<CompressorPtr> codecs(size_t part) const override { return up_->codecs(part); }
  bool starts_dense() const override { return up_->starts_dense(); }
  size_t max_bytes(size_t n, DType dtype, bool first) const override { return up_->max_bytes(n, dtype, first); }
  bool has_fixed_size(bool first) const override { return up_->has_fixed_size(first); }
  bool takes_chooser() const override { return up_->takes_chooser(); }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override {
    return up_->send(x, state, key, out);
  }
  bool inspects() const override { return up_->inspects(); }
  bool retract(const Arrived& sent, ConstView x, std::span<const View> state) const override {
    return up_->retract(sent, x, state);
  }
  /// State: that of up's receiver, of down's sender, of down's receiver.
  void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key, View out) const override;

 private:
  MechanismPtr up_, down_;
};

}  // namespace tsq
