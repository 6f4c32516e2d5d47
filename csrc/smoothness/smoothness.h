// What is known of a worker's loss: a matrix L >= 0 with f(x) <= f(y) + <grad f(y), x - y> + |x - y|_L^2 / 2 for all x,
// y. Scalar, Diagonal, BlockDiagonal and Matrix keep L^(1/2) and the root of the pseudo-inverse. Source: Safaryan,
// Hanzely, Richtarik, 2021; docs/smoothness.md. Everything is in double and in a fixed order: the same bits on every
// machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tsq {

class Smoothness;
using SmoothnessPtr = std::shared_ptr<const Smoothness>;

/// Immutable and thread-safe.
class Smoothness {
 public:
  enum class Kind : uint8_t { kScalar, kDiagonal, kBlockDiagonal, kMatrix };

  virtual ~Smoothness() = default;
  Kind kind() const { return kind_; }
  const char* kind_name() const;           ///< "scalar", "diagonal", "block", "matrix"
  size_t numel() const { return numel_; }  ///< 0: a scalar, for vectors of every length
  double mu() const { return mu_; }        ///< strong convexity of the mean loss; 0: none is known

  virtual std::vector<double> diagonal(size_t n) const = 0;  ///< L_jj, n elements
  virtual double lambda_max() const = 0;
  virtual std::vector<double> dense(size_t n) const = 0;  ///< n x n
  /// Numbers of L that a server must be told: 1, d, of blocks the lower triangles, d_l (d_l + 1) / 2 each.
  virtual uint64_t numbers() const = 0;

  /// out = L^(1/2) x, and out = (L^+)^(1/2) x: zero in the kernel of L. n elements; out may not be x.
  virtual void root(const double* x, double* out, size_t n) const = 0;
  virtual void inverse_root(const double* x, double* out, size_t n) const = 0;

  double trace(size_t n) const;

  /// Throws ArgumentError unless it fits vectors of n elements.
  void check_numel(size_t n) const;

 protected:
  /// Throws ArgumentError unless mu is finite and not negative.
  Smoothness(Kind kind, size_t numel, double mu);

 private:
  Kind kind_;
  size_t numel_;
  double mu_;
};

/// L times the identity, for every length.
class Scalar final : public Smoothness {
 public:
  explicit Scalar(double value, double mu = 0);
  double value() const { return value_; }
  std::vector<double> diagonal(size_t n) const override { return std::vector<double>(n, value_); }
  double lambda_max() const override { return value_; }
  std::vector<double> dense(size_t n) const override;
  uint64_t numbers() const override { return 1; }
  void root(const double* x, double* out, size_t n) const override;
  void inverse_root(const double* x, double* out, size_t n) const override;

 private:
  double value_, root_, inverse_root_;
};

class Diagonal final : public Smoothness {
 public:
  /// Throws ArgumentError unless the values are finite and not negative, and at least one.
  explicit Diagonal(std::vector<double> values, double mu = 0);
  std::vector<double> diagonal(size_t n) const override;
  double lambda_max() const override;
  std::vector<double> dense(size_t n) const override;
  uint64_t numbers() const override { return values_.size(); }
  void root(const double* x, double* out, size_t n) const override;
  void inverse_root(const double* x, double* out, size_t n) const override;

 private:
  std::vector<double> values_, root_, inverse_root_;
};

/// Square blocks along the diagonal; one block is a Matrix.
class BlockDiagonal final : public Smoothness {
 public:
  struct Block {
    size_t size = 0;
    std::vector<double> values;  ///< size x size
  };
  /// `rounding`: relative rounding error of the elements as they were given, 2^-52 for doubles: how far from symmetric
  /// and how negative is still taken as rounding, and which eigenvalues count as 0 (times the block's size and
  /// lambda_max). Throws ArgumentError unless every block is finite, symmetric and positive semidefinite. O(sum of
  /// size^3).
  BlockDiagonal(Kind kind, std::vector<Block> blocks, double rounding, double mu = 0);
  std::vector<double> diagonal(size_t n) const override;
  double lambda_max() const override { return lambda_max_; }
  std::vector<double> dense(size_t n) const override;
  uint64_t numbers() const override;
  void root(const double* x, double* out, size_t n) const override { apply(roots_, x, out, n); }
  void inverse_root(const double* x, double* out, size_t n) const override { apply(inverse_roots_, x, out, n); }
  size_t rank() const { return rank_; }

 private:
  void apply(const std::vector<std::vector<double>>& parts, const double* x, double* out, size_t n) const;

  std::vector<Block> blocks_;
  std::vector<std::vector<double>> roots_, inverse_roots_;
  double lambda_max_ = 0;
  size_t rank_ = 0;
};

/// lambda_max of the mean of these, a smoothness constant of the mean loss; from 4096 elements on, where one of them
/// is not diagonal, the mean of their lambda_max, which is not less.
double lambda_max_of_mean(std::span<const SmoothnessPtr> all, size_t n);

}  // namespace tsq
