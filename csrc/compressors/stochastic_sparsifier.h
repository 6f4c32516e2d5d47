// StochasticSparsifier(budget, value_dtype=): CAT's "SS" (Khirirat, Magnusson, Aytekin, Johansson 2021). Element j is
// sent with probability p_j = min(1, |x_j| / tau), tau such that these add up to T, as x_j / p_j: of all unbiased
// sparsifiers with T entries expected the one of least variance. Format: docs/wire_format.md, codec 6.
//
// T is the budget (an integer: entries), or min(n, max(1, ceil(budget n))) (a float: a share). With V = E|C(x)|^2 =
// sum x_j^2 / p_j <= (n/T) |x|^2: U(n/T - 1), attained by equal magnitudes. As a contractive map times |x|^2 / V, which
// is known before anything is drawn: E|C(x) - x|^2 = (1 - |x|^2 / V) |x|^2, B(T/n). Values through a quantizer of
// U(w): U((n/T)(1 + w) - 1) and B(T / (n (1 + w))); it must be an unbiased one.
#pragma once

#include "compressors/entry_count.h"
#include "compressors/sparse_vector.h"

namespace tsq {

class StochasticSparsifier final : public SparseVector {
 public:
  struct Config {
    std::optional<double> ratio;  ///< in (0, 1]
    std::optional<uint64_t> k;    ///< >= 1
    Values values = {};
    bool shrunk = false;  ///< not part of the spec: set by a mechanism
  };

  /// Throws ArgumentError unless exactly one of ratio and k is given, in its range, and a quantizer of the values may
  /// be unbiased.
  explicit StochasticSparsifier(const Config& config);

  uint64_t max_entries(uint64_t n) const override;
  double expected_entries(uint64_t n) const override { return static_cast<double>(count_.of(n)); }

  std::string spec() const override;
  Class class_of(size_t n, uint32_t world_size = 1) const override;
  bool takes_chooser() const override { return true; }
  std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size) const override;
  CompressorPtr as_contractive() const override { return with(true); }
  CompressorPtr as_unbiased() const override { return with(false); }

 private:
  /// x.numel < 2^32, else ArgumentError. If an element of what is compressed is not finite, or from 2^990 on,
  /// the payload is the one of zeros and the state is untouched.
  Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const override;

  CompressorPtr with(bool shrunk) const {
    return std::make_shared<StochasticSparsifier>(Config{config_.ratio, config_.k, values().unbiased(), shrunk});
  }

  Config config_;
  EntryCount count_;
};

/// The tau at which min(1, |x_j| / tau) add up to `budget`; 0 if no more than `budget` elements are not zero: all of
/// them are sent as they are. Magnitudes below 2^990, n < 2^32, budget > 0. The order of all sums is fixed (lane_sum).
/// S: float or double.
template <class S>
double solve_threshold(const S* x, size_t n, uint64_t budget);

extern template double solve_threshold(const float*, size_t, uint64_t);
extern template double solve_threshold(const double*, size_t, uint64_t);

}  // namespace tsq
