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

class AdaCGD final : public EstimateReceiver {
 public:
  /// Throws ArgumentError for an empty ladder, a ladder out of order (the known alphas must not fall) or zeta < 0.
  AdaCGD(std::vector<CompressorPtr> ladder, std::optional<double> zeta, Init init);

  std::string spec() const override;
  std::vector<CompressorPtr> codecs(size_t) const override { return ladder_; }
  bool has_fixed_size(bool first) const override { return first && starts_dense(); }
  bool takes_chooser() const override { return true; }
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
  /// Adds what the first level sends that leaves at most `allowed`, or else the last one; moves h. Returns the level,
  /// or 0 if something was not finite. The levels of Top-K share one selection. S: h's type.
  template <class S>
  size_t climb(const Errand& errand, Parts& out) const;
  /// The same by a policy: of the levels that leave at most `allowed`, and the last one, that of the highest utility.
  size_t choose(const Errand& errand, Parts& out) const;
  template <class S>
  bool select_all(const Errand& errand, std::vector<Selection<S>>& selected) const;
  /// Adds the entries and moves h by them, if they leave at most `allowed`.
  template <class S>
  bool try_entries(const TopK& c, const Errand& errand, Selection<S>& kept, Parts& out) const;

  std::vector<CompressorPtr> written_, ladder_;
  std::vector<const TopK*> sparse_;  // the levels that are Top-K; null for others
  std::optional<double> zeta_;
};

}  // namespace tsq
