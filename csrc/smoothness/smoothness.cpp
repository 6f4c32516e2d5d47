#include "smoothness/smoothness.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/error.h"
#include "smoothness/eigen.h"

namespace tsq {

namespace {

void check_entry(const char* what, double value, size_t index) {
  if (!(value >= 0) || !std::isfinite(value))
    throw ArgumentError(
        concat("smoothness: ", what, " ", index, ": expected a finite number of at least 0, got ", value));
}

double inverse_of_root(double root) { return root > 0 ? 1 / root : 0; }

size_t total_size(const std::vector<BlockDiagonal::Block>& blocks) {
  return std::accumulate(blocks.begin(), blocks.end(), size_t{0},
                         [](size_t sum, const BlockDiagonal::Block& b) { return sum + b.size; });
}

/// Sum over k of weight[k] w_k w_k^T, w_k the rows of `vectors`.
std::vector<double> weighted_outer(const std::vector<double>& weight, const std::vector<double>& vectors, size_t d) {
  std::vector<double> out(d * d, 0);
  for (size_t k = 0; k < d; ++k) {
    if (weight[k] == 0) continue;
    const double* const w = &vectors[k * d];
    for (size_t i = 0; i < d; ++i) {
      const double f = weight[k] * w[i];
      for (size_t j = 0; j < d; ++j) out[i * d + j] += f * w[j];
    }
  }
  return out;
}

/// Makes it symmetric to the bit; throws unless it is finite and symmetric to rounding.
void symmetrise(BlockDiagonal::Block& block, double rounding) {
  const size_t d = block.size;
  double largest = 0;
  for (const double v : block.values) {
    if (!std::isfinite(v)) throw ArgumentError(concat("smoothness: expected finite entries, got ", v));
    largest = std::max(largest, std::abs(v));
  }
  for (size_t i = 0; i < d; ++i)
    for (size_t j = 0; j < i; ++j) {
      double &a = block.values[i * d + j], &b = block.values[j * d + i];
      if (std::abs(a - b) > 8 * rounding * largest)
        throw ArgumentError(concat("smoothness: expected a symmetric matrix, got ", a, " at (", i, ", ", j, ") and ", b,
                                   " at (", j, ", ", i, ")"));
      a = b = 0.5 * (a + b);
    }
}

}  // namespace

Smoothness::Smoothness(Kind kind, size_t numel, double mu) : kind_(kind), numel_(numel), mu_(mu) {
  if (!(mu >= 0) || !std::isfinite(mu))
    throw ArgumentError(concat("smoothness: mu: expected a finite number of at least 0, got ", mu));
}

const char* Smoothness::kind_name() const {
  constexpr const char* kNames[] = {"scalar", "diagonal", "block", "matrix"};
  return kNames[static_cast<size_t>(kind_)];
}

double Smoothness::trace(size_t n) const {
  const std::vector<double> entries = diagonal(n);
  return std::accumulate(entries.begin(), entries.end(), 0.0);
}

void Smoothness::check_numel(size_t n) const {
  if (numel_ != 0 && numel_ != n)
    throw ArgumentError(concat("smoothness: expected one of ", n, " elements, got a ", kind_name(), " of ", numel_));
}

Scalar::Scalar(double value, double mu)
    : Smoothness(Kind::kScalar, 0, mu), value_(value), root_(std::sqrt(value)), inverse_root_(inverse_of_root(root_)) {
  check_entry("scalar", value, 0);
}

std::vector<double> Scalar::dense(size_t n) const {
  std::vector<double> out(n * n, 0);
  for (size_t i = 0; i < n; ++i) out[i * n + i] = value_;
  return out;
}

void Scalar::root(const double* x, double* out, size_t n) const {
  for (size_t i = 0; i < n; ++i) out[i] = root_ * x[i];
}

void Scalar::inverse_root(const double* x, double* out, size_t n) const {
  for (size_t i = 0; i < n; ++i) out[i] = inverse_root_ * x[i];
}

Diagonal::Diagonal(std::vector<double> values, double mu)
    : Smoothness(Kind::kDiagonal, values.size(), mu), values_(std::move(values)) {
  if (values_.empty()) throw ArgumentError("smoothness: diagonal: expected at least one entry, got none");
  for (size_t i = 0; i < values_.size(); ++i) {
    check_entry("diagonal entry", values_[i], i);
    root_.push_back(std::sqrt(values_[i]));
    inverse_root_.push_back(inverse_of_root(root_.back()));
  }
}

std::vector<double> Diagonal::diagonal(size_t n) const {
  check_numel(n);
  return values_;
}

double Diagonal::lambda_max() const { return *std::max_element(values_.begin(), values_.end()); }

std::vector<double> Diagonal::dense(size_t n) const {
  check_numel(n);
  std::vector<double> out(n * n, 0);
  for (size_t i = 0; i < n; ++i) out[i * n + i] = values_[i];
  return out;
}

void Diagonal::root(const double* x, double* out, size_t n) const {
  for (size_t i = 0; i < n; ++i) out[i] = root_[i] * x[i];
}

void Diagonal::inverse_root(const double* x, double* out, size_t n) const {
  for (size_t i = 0; i < n; ++i) out[i] = inverse_root_[i] * x[i];
}

BlockDiagonal::BlockDiagonal(Kind kind, std::vector<Block> blocks, double rounding, double mu)
    : Smoothness(kind, total_size(blocks), mu), blocks_(std::move(blocks)) {
  if (numel() == 0) throw ArgumentError("smoothness: expected at least one entry, got none");
  for (Block& block : blocks_) {
    const size_t d = block.size;
    if (block.values.size() != d * d)
      throw ArgumentError(
          concat("smoothness: expected a square matrix of ", d, " rows, got ", block.values.size(), " entries"));
    symmetrise(block, rounding);
    const Eigen eigen = eigen_symmetric(block.values, d);
    if (d == 0) continue;
    const auto [low, high] = std::minmax_element(eigen.values.begin(), eigen.values.end());
    const double small = 4 * rounding * static_cast<double>(d) * std::max(*high, -*low);
    if (*low < -small)
      throw ArgumentError(
          concat("smoothness: expected a positive semidefinite matrix, got one with the eigenvalue ", *low));
    std::vector<double> roots(d), inverses(d);
    for (size_t k = 0; k < d; ++k) {
      const bool kept = eigen.values[k] > small;
      roots[k] = kept ? std::sqrt(eigen.values[k]) : 0;
      inverses[k] = inverse_of_root(roots[k]);
      rank_ += kept;
    }
    lambda_max_ = std::max(lambda_max_, *high);
    roots_.push_back(weighted_outer(roots, eigen.vectors, d));
    inverse_roots_.push_back(weighted_outer(inverses, eigen.vectors, d));
  }
  std::erase_if(blocks_, [](const Block& b) { return b.size == 0; });
}

std::vector<double> BlockDiagonal::diagonal(size_t n) const {
  check_numel(n);
  std::vector<double> out;
  for (const Block& block : blocks_)
    for (size_t i = 0; i < block.size; ++i) out.push_back(std::max(0.0, block.values[i * block.size + i]));
  return out;
}

std::vector<double> BlockDiagonal::dense(size_t n) const {
  check_numel(n);
  std::vector<double> out(n * n, 0);
  size_t at = 0;
  for (const Block& block : blocks_) {
    for (size_t i = 0; i < block.size; ++i)
      std::copy_n(&block.values[i * block.size], block.size, &out[(at + i) * n + at]);
    at += block.size;
  }
  return out;
}

uint64_t BlockDiagonal::numbers() const {
  uint64_t sum = 0;
  for (const Block& block : blocks_) sum += uint64_t{block.size} * (block.size + 1) / 2;
  return sum;
}

// The columns' sums, so that the inner loop runs along a row: the matrix is symmetric.
void BlockDiagonal::apply(const std::vector<std::vector<double>>& parts, const double* x, double* out, size_t n) const {
  std::fill_n(out, n, 0.0);
  size_t at = 0;
  for (size_t b = 0; b < blocks_.size(); ++b) {
    const size_t d = blocks_[b].size;
    for (size_t i = 0; i < d; ++i) {
      const double f = x[at + i];
      const double* const row = &parts[b][i * d];
      for (size_t j = 0; j < d; ++j) out[at + j] += f * row[j];
    }
    at += d;
  }
}

double lambda_max_of_mean(std::span<const SmoothnessPtr> all, size_t n) {
  const auto count = static_cast<double>(all.size());
  const bool flat = std::all_of(all.begin(), all.end(), [](const SmoothnessPtr& s) {
    return s->kind() == Smoothness::Kind::kScalar || s->kind() == Smoothness::Kind::kDiagonal;
  });
  if (all.size() == 1) return all[0]->lambda_max();
  double mean = 0;
  for (const SmoothnessPtr& s : all) mean += s->lambda_max() / count;
  if (!flat && n >= 4096) return mean;
  std::vector<double> sum(flat ? n : n * n, 0);
  for (const SmoothnessPtr& s : all) {
    const std::vector<double> part = flat ? s->diagonal(n) : s->dense(n);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i] / count;
  }
  const std::vector<double> values = flat ? std::move(sum) : eigen_symmetric(std::move(sum), n).values;
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

}  // namespace tsq
