#include "policy/profile.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>

namespace tsq {

namespace {

constexpr size_t kBlock = 256;         // elements whose bins are found before they are tallied
constexpr size_t kTables = 4;          // neighbours often have the same bin: they are added to tables of their own
constexpr size_t kFewElements = 8192;  // up to here one table: clearing more costs more than they save

struct alignas(32) Cell {
  double count, sum, squares, none;
};

/// The largest magnitude, by its bits: these are ordered as the magnitudes are, and integers are compared in any order.
template <class S>
double largest_of(std::span<const S> g) {
  using Key = std::conditional_t<sizeof(S) == 8, int64_t, int32_t>;
  Key largest = 0;
  for (const S value : g) largest = std::max<Key>(largest, std::bit_cast<Key>(std::abs(value)));
  return static_cast<double>(std::bit_cast<S>(largest));
}

/// The power of two that takes `largest` to [2, 4), as far as an S that is no denormal one goes; 1 for 0.
template <class S>
double unit_for(double largest) {
  constexpr int kMost = 1 - std::numeric_limits<S>::min_exponent;
  return largest > 0 ? std::ldexp(1.0, std::min(1 - std::ilogb(largest), kMost)) : 1.0;
}

}  // namespace

template <class S>
Profile<S>::Profile(std::span<const S> g) : g_(g), unit_(unit_for<S>(largest_of(g))) {
  fill();
}

// Bins are found in S, where the product with a power of two is exact but for what falls into the last bin anyway.
template <class S>
void Profile<S>::fill() {
  using Bits = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;
  constexpr int kDrop = std::numeric_limits<S>::digits - 1 - (52 - kShift);
  constexpr Bits kFirst = (Bits{std::numeric_limits<S>::max_exponent + 1} << (52 - kShift)) - 1;  // just below 4
  constexpr size_t kCells = kBins + 1;                                                            // the last: zeros
  const size_t n = g_.size(), tables = n > kFewElements ? kTables : 1;
  const S unit = static_cast<S>(unit_);
  thread_local std::vector<Cell> cells;
  cells.assign(tables * kCells, Cell{});
  Bits bin[kBlock];
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t count = std::min(kBlock, n - begin);
    const S* const g = g_.data() + begin;
    for (size_t i = 0; i < count; ++i)
      bin[i] = std::min<Bits>(kFirst - (std::bit_cast<Bits>(std::abs(g[i]) * unit) >> kDrop), kBins - 1) + (g[i] == 0);
    for (size_t i = 0; i < count; ++i) {
      Cell& cell = cells[(i % tables) * kCells + bin[i]];
      const double y = std::abs(static_cast<double>(g[i])) * unit_;
      cell.count += 1.0;
      cell.sum += y;
      cell.squares += y * y;
    }
  }
  for (size_t b = 0; b < kBins; ++b) {
    above_[b + 1] = above_[b];
    for (size_t t = 0; t < tables; ++t) {
      const Cell& cell = cells[t * kCells + b];
      above_[b + 1].count += cell.count;
      above_[b + 1].sum += cell.sum;
      above_[b + 1].squares += cell.squares;
    }
  }
}

template <class S>
std::span<const double> Profile<S>::members(size_t first, size_t end) {
  if (first == first_ && end == end_) return members_;
  members_.clear();
  members_.reserve(static_cast<size_t>(above_[end].count - above_[first].count));
  constexpr size_t kLook = 32;  // elements between two decisions to look closer
  const S unit = static_cast<S>(unit_), high = static_cast<S>(upper(first));
  const S low = end == kBins ? S{0} : static_cast<S>(lower(end - 1));
  const auto inside = [&](S value) {
    const S y = std::abs(value) * unit;
    return (y >= low) & (y < high) & (value != 0);
  };
  for (size_t begin = 0; begin < g_.size(); begin += kLook) {
    const std::span<const S> few = g_.subspan(begin, std::min(kLook, g_.size() - begin));
    unsigned any = 0;
    for (const S value : few) any |= static_cast<unsigned>(inside(value));
    if (!any) continue;
    for (const S value : few)
      if (inside(value)) members_.push_back(std::abs(static_cast<double>(value)) * unit_);
  }
  first_ = first;
  end_ = end;
  sorted_ = false;
  return members_;
}

template <class S>
std::span<const double> Profile<S>::sorted(size_t first, size_t end) {
  members(first, end);
  if (!sorted_) std::sort(members_.begin(), members_.end(), std::greater<>());
  sorted_ = true;
  return members_;
}

template class Profile<float>;
template class Profile<double>;

}  // namespace tsq
