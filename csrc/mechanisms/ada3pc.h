// Ada3PC([m1, ..., mk], [p1, ..., pk-1]): in every step the first of k three point compressors whose condition holds,
// or else the last:
//   C(x) = C_j(x) for the smallest j with P_j(x, y, h), C_k(x) if there is none
// 3PC(min A_j, max B_j); a level under Accurate(zeta) counts as 3PC(1, zeta), which is what its condition says. AdaCGD
// is the instance LAG(zeta), EF21(c_1), ..., EF21(c_m) under Near(zeta), Accurate(zeta), ... Source: Makarenko et al.
// 2023; docs/algorithms.md. The receiver needs no index: sections say how to read them, and all are increments of h.
#pragma once

#include "mechanisms/condition.h"
#include "mechanisms/estimate.h"

namespace tsq {

class Ada3PC final : public EstimateReceiver {
 public:
  /// Throws ArgumentError unless there is one condition fewer than mechanisms, and every mechanism is EF21 without
  /// momentum, LAG, CLAG, AdaCGD, ThreePC 2 to 5 or Ada3PC, that starts as this one does.
  Ada3PC(std::vector<MechanismPtr> levels, std::vector<Condition> conditions, Init init);

  std::string spec() const override;
  size_t parts() const override { return parts_; }
  std::vector<CompressorPtr> codecs(size_t part) const override;
  bool has_fixed_size(bool first) const override { return first && starts_dense(); }
  double expected_bits(size_t n, DType dtype) const override { return levels_.back()->expected_bits(n, dtype); }
  bool send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const override;
  std::optional<ThreePoint> three_point(size_t n, uint32_t world_size) const override;

 private:
  /// One step of a level from h and y, which it moves. False as Mechanism::send.
  bool run(const Mechanism& level, ConstView x, View h, View y, const StepKey& key, Parts& out) const;
  /// The same, kept only if `condition` holds of the outcome; else h is as it was and `out` empty. None: not finite.
  std::optional<bool> attempt(size_t level, ConstView x, View h, View y, const StepKey& key, Situation& now,
                              Parts& out) const;

  std::vector<MechanismPtr> levels_;
  std::vector<Condition> conditions_;
  size_t parts_ = 1;
};

}  // namespace tsq
