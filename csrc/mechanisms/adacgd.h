// AdaCGD([c1, ..., cm], zeta=None): the first level of a ladder, cheap to accurate, that is accurate enough. With
// r = x - h and X = |x - y|^2:
//   level 0, nothing sent,   if |r|^2 <= zeta X
//   level j < m, C_j(r),     the smallest with |r - C_j(r)|^2 <= zeta X
//   level m, C_m(r),         otherwise
// 3PC(S(alpha_m), max{(1-alpha_m)/S(alpha_m), zeta}): only the finest level enters the theory. zeta = None is
// (1-alpha_m)/S(alpha_m), for which the ladder costs nothing in step size. Source: Makarenko et al. 2023, as in
// docs/algorithms.md; an instance of Ada3PC, Richtarik et al. 2022. A policy (EncodeKey::chooser) may take another of
// the levels that are accurate enough: whoever leaves at most max{zeta X, (1-alpha_m)|r|^2} has these constants.
#pragma once

#include "compressors/topk.h"
#include "mechanisms/estimate.h"

namespace tsq {

/// The `target` largest entries of x - h, and what all of them together have of |x - h|^2: to rounding, and none yet
/// known if negative.
template <class S>
struct WideSelection {
  Selection<S> entries;
  size_t target = 0;
  double energy = -1;
};

class AdaCGD final : public EstimateReceiver {
 public:
  /// Throws ArgumentError for an empty ladder, a ladder out of order (the known alphas must not fall) or zeta < 0.
  AdaCGD(std::vector<CompressorPtr> ladder, std::optional<double> zeta, Init init);

  std::string spec() const override;
  std::vector<CompressorPtr> codecs(size_t) const override { return ladder_; }
  bool has_fixed_size(bool first) const override { return first && starts_dense(); }
  bool takes_chooser() const override { return true; }
  bool inspects() const override { return true; }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const override;

 private:
  double zeta(size_t n, uint32_t world_size) const;
  /// A gradient that must be sent: size = |x - h|^2 is more than `allowed`.
  struct Errand {
    ConstView x;
    const View& h;
    EncodeKey key;  ///< without a chooser: a level is sent as it is
    const EntryChooser* chooser;
    double size, allowed;
  };
  /// A step after the first. S: the state's type.
  template <class S>
  bool send_level(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const;
  /// How many of the largest x - h will probably be looked at: those of the widest level that is reached. 0: none, or
  /// they are better selected later.
  size_t entries_ahead(ConstView x, const View& h, const View& y, const StepKey& key) const;
  /// Adds what the first level sends that leaves at most `allowed`, or else the last one; moves h. Returns the level,
  /// or 0 if something was not finite. `wide`: the largest x - h, as many as its target says; the levels of Top-K share
  /// it.
  template <class S>
  size_t climb(const Errand& errand, WideSelection<S>& wide, Parts& out) const;
  /// The same by a policy: of the levels that leave at most `allowed`, and the last one, that of the highest utility.
  size_t choose(const Errand& errand, Parts& out) const;
  /// Makes sure that `wide` has all entries of this level, if there are some.
  template <class S>
  bool widen(const TopK& c, const Errand& errand, WideSelection<S>& wide) const;
  /// Adds the level's entries of `wide` and moves h by them, if they leave at most `allowed`.
  template <class S>
  bool try_entries(const TopK& c, const Errand& errand, WideSelection<S>& wide, Parts& out) const;
  /// Adds c(x - h) and moves h, if that leaves at most `allowed`. None if something was not finite.
  std::optional<bool> try_increment(const Compressor& c, const Errand& errand, Parts& out) const;
  static std::optional<double> encode_in_pieces(const Compressor& c, const Errand& errand, const Parts& out);

  std::vector<CompressorPtr> written_, ladder_;
  std::vector<const TopK*> sparse_;  // the levels that are Top-K; null for others
  std::optional<double> zeta_;
};

}  // namespace tsq
