// What a budget means, and the steps and probabilities that are best under it. Derivations: docs/smoothness.md; source
// of the problems: Wang, Safaryan, Richtarik, 2022. L_jj: the diagonal of a smoothness matrix. n_mu: ranks times strong
// convexity; 0: only script-L counts (DCGD+, and the limit of DIANA+ without strong convexity). A coordinate with
// L_jj = 0, whose gradient is always 0, gets an infinite step or the probability 0: weight 0.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tsq {

/// How much may be sent: exactly one of three.
struct Budget {
  std::optional<double> entries;  ///< expected non-zeros of a section, plus 1 for each norm after the first
  std::optional<double> ratio;    ///< the same without norms as a share of the elements, in (0, 1]
  std::optional<double> bits;     ///< expected bits per element, all included

  /// "budget=30.75", "ratio=0.25" or "bits=1.5".
  std::string text() const;
  /// Throws ArgumentError, which begins with `name`, unless exactly one is given, in its range.
  void check(const char* name) const;
};

constexpr double kMaxBudgetBits = 12;

/// Expected bits at most of a section of n elements whose non-zero levels, at most `entries` expected, go by Elias's
/// code (docs/wire_format.md, codec 13): by concavity entries (G(n / entries) + 1 + G(1)), G the least concave majorant
/// of the code's length; with more entries than elements n (G(1) + 1 + G(entries / n)). `scale_bytes` of all norms.
double elias_budget_bits(double n, double entries, double scale_bytes);

/// The expected non-zeros that `budget` grants to n > 0 elements: without `counted` norms, which an absolute budget
/// counts, and `scale_bytes`, which bits do. At most n, but where bits were given; 0 if nothing is left.
double granted_entries(const Budget& budget, size_t n, size_t counted, double scale_bytes);

/// Throws ArgumentError, which begins with `name`, if an absolute budget is more than dense, or if nothing is left.
void check_budget(const char* name, const Budget& budget, size_t n, size_t counted, double scale_bytes);

/// VaryingDithering's weights: A_j = L_jj, or for DIANA+ sqrt(1 + (L_jj / n_mu)^2) if `euclidean`, else
/// 1 + L_jj / n_mu. Steps h_j = sqrt(sum A / A_j) / beta relative to |x|_2 solve min |Diag(A) h|_2 (where A = L) under
/// |1/h|_2 = beta, and absolute steps sum_l sqrt(A_l) |x_l| / (beta sqrt(A_j)) solve min sum_j A_j step_j |x_j| under
/// sum_j |x_j| / step_j = beta.
std::vector<double> weights_of(std::span<const double> diagonal, double n_mu, bool euclidean);

/// h_j of the above; infinite where A_j = 0.
std::vector<double> varying_steps(std::span<const double> weights, double beta);

/// Coordinates [bounds[l], bounds[l + 1]) of n in `blocks` blocks of equal size, to rounding: bounds[l] =
/// floor(l n / blocks).
std::vector<size_t> block_bounds(size_t n, size_t blocks);

/// How the steps of blocks follow from a budget beta, that counts a norm as 1.
enum class BlockRule : uint8_t {
  kTight,    ///< sum s_l sqrt(d_l) + B = beta
  kPaper,    ///< sum s_l^2 + s_l sqrt(d_l) + B = beta, the paper's bound of the non-zeros
  kUniform,  ///< one step for all blocks, with kPaper's bound in every block of n / B elements
};

/// Steps h_l = delta / A_l relative to the block's 2-norm, which solve min max_l h_l A_l; A_l = |diag L_ll|_2 (n_mu =
/// 0) or sqrt(d_l) + |diag L_ll|_2 / n_mu. Infinite where A_l = 0. beta > B.
std::vector<double> block_steps(std::span<const double> diagonal, std::span<const size_t> bounds, double beta,
                                double n_mu, BlockRule rule);

/// The same without a smoothness: A_l = sqrt(d_l).
std::vector<double> plain_block_steps(std::span<const size_t> bounds, double beta, bool uniform);

/// Probabilities p_j = A_j / (A_j + rho) with sum tau (all 1 if there are no more positive A_j than that), A_j = L_jj
/// or 1 + L_jj / n_mu: they solve min max_j (1/p_j - 1) A_j, which is then rho.
std::vector<double> bernoulli_probabilities(std::span<const double> diagonal, double tau, double n_mu);

}  // namespace tsq
