// Compression in the Kronecker eigenbasis: matrices are turned on their way into the averager and back on their way
// out. Everything between lives in turned coordinates, states included; when a basis changes, so do all state vectors,
// and nothing that is owed is lost: every mechanism's state is linear in gradients, and a change of orthonormal basis
// keeps lengths. All ranks turn alike, to the bit, because bases come from delivered averages by fixed orders of
// operations.
//
// Knows no torch, no thread. One caller at a time. For exchanges that do not cut parameters: dense and all_gather.
#pragma once

#include <span>
#include <vector>

#include "hook/averager.h"
#include "smoothness/kronecker.h"

namespace tsq {

struct RotationConfig {
  double decay = 0.95;
  uint64_t warmup = 5;        ///< steps before the first bases
  uint64_t interval = 20;     ///< steps between refreshes
  size_t largest_side = 512;  ///< a longer side of a matrix is not turned
};

/// Rows and columns of a parameter; 0: not a matrix.
struct MatrixShape {
  size_t rows = 0, columns = 0;
};

class Rotation {
 public:
  /// `shapes` by parameter. Turned are float32 and float64 matrices that are compressed and have a side of 2 to
  /// largest_side. Throws ArgumentError if there is none, or the exchange is sharded.
  Rotation(const RotationConfig& config, const Averager& averager, std::span<const MatrixShape> shapes);

  /// Averager::average in turned coordinates. If it throws, the buffer is as it was, to rounding.
  void average(Averager& averager, std::span<const uint32_t> ids, View buffer);

  void scale(double factor);

  bool turns(uint32_t id) const { return index_[id] >= 0; }

  /// For checkpoints, as Planner's. The same on every rank.
  Planner::Saved state() const;
  /// Throws ArgumentError, with nothing changed. State vectors are to be loaded with it: they are of its bases.
  void load(const Planner::Saved& saved);

 private:
  static constexpr int kFirstIterations = 10, kIterations = 2;  // of the first bases, and of later ones

  void begin(Averager& averager, std::span<const uint32_t> ids);
  void refresh(Averager& averager);
  /// f(basis, slice of the buffer) for every turned parameter in it.
  template <class F>
  void each(const Averager& averager, std::span<const uint32_t> ids, View buffer, F f);

  RotationConfig config_;
  std::vector<KroneckerBasis> bases_;
  std::vector<uint32_t> ids_;  // of bases_
  std::vector<int> index_;     // by parameter: into bases_, or -1
  std::vector<bool> seen_;
  uint64_t steps_ = 0;
};

}  // namespace tsq
