// Base of the mechanisms that keep an estimate: the receiver holds g = mean of the senders' shifts h_i and adds to it
// what arrives, or replaces it where a whole vector arrives from everybody (MARINA's coin, a dense first message).
#pragma once

#include "compressors/identity.h"
#include "compressors/topk.h"
#include "mechanisms/mechanism.h"

namespace tsq {

/// How h, and with it the estimate, begins: with the whole first gradient, or from zero.
enum class Init : uint8_t { kDense, kZero };

class EstimateReceiver : public Mechanism {
 public:
  const Compressor& compressor() const override { return *compressor_; }
  std::vector<CompressorPtr> codecs(size_t) const override { return {compressor_}; }
  bool starts_dense() const override { return init_ == Init::kDense; }
  bool moves_shift() const override;

  /// Increments cannot be told from state: the hook says that its state is torn, and a checkpoint is needed.
  bool retract(const Arrived&, ConstView, std::span<const View>) const override { return false; }

  /// g = g + (m_1 + ... + m_W) / W, or g = (x_1 + ... + x_W) / W where whole vectors arrive; what is marked counts
  /// as what the receiver knew: nothing new.
  void receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key, View out) const override;

 protected:
  EstimateReceiver(CompressorPtr compressor, std::vector<std::string> state_names, Init init)
      : Mechanism(std::move(state_names), {"estimate"}), compressor_(std::move(compressor)), init_(init) {}

  const CompressorPtr& codec() const { return compressor_; }
  Init init() const { return init_; }
  std::string init_text() const { return init_ == Init::kZero ? ", init='zero'" : ""; }

  /// Sends x itself as the first part and nothing in the others.
  bool send_whole(ConstView x, const StepKey& key, Parts& out) const;

  /// m = c(x - h); h = h + m; adds m. With Identity h becomes x to the bit, so that x = h tests as equal later.
  static bool send_increment(const Compressor& c, ConstView x, View h, const EncodeKey& key, Parts& out);

  /// The same by entries of x - h that have been selected: at most c.target(x.numel). S: h's type.
  template <class S>
  static void send_selected(const TopK& c, ConstView x, View h, const EncodeKey& key, Selection<S>& kept, Parts& out) {
    out.add(c, c.send(kernels::Form::kShifted, x, h.data, out.keyed(key), kept, out.room()));
  }

  /// True if x may be sent: it has been inspected, or `ordinary` says that it need not be, or it is now.
  bool passes(ConstView x, std::span<const View> state, const StepKey& key, bool ordinary = false) const;

  /// Adds m = c(x - y), and scale * m to `to`; y stays as it is (to may be y). For increments that are not h's own.
  static bool send_difference(const Compressor& c, ConstView x, ConstView y, const EncodeKey& key, Parts& out,
                              View to = {}, double scale = 1.0);

  /// Throws ArgumentError, beginning with `where`, unless `other` can do the step of a mechanism with this init.
  void check_part(const char* where, const Mechanism& other) const;

  /// What a marked rank counts for when the others' vectors replace the estimate: its shift, which is zero at the
  /// first step (so nothing), or (MARINA, which has no shift) the old estimate.
  virtual bool marked_keep_their_share() const { return false; }

 private:
  /// g += the mean of increments that are all of one format, or nothing, and out = g, in one sweep. False if they are
  /// not; then nothing is done.
  bool update_at_once(std::span<const Arrived> from, View g, View out) const;

  CompressorPtr compressor_;
  Init init_;
};

/// True with probability p; the same on every rank of a step.
bool shared_coin(const EncodeKey& key, double p);

/// The key of a second encoding in the same step: independent of the first.
EncodeKey second_key(const EncodeKey& key);

/// S(alpha) = 1 - sqrt(1 - alpha).
double contraction(double alpha);

}  // namespace tsq
