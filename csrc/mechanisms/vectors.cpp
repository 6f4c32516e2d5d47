#include "mechanisms/vectors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "common/convert.h"
#include "kernels/cpu/block.h"
#include "kernels/quantizer.h"
#include "kernels/sums.h"

namespace tsq {

namespace {

constexpr size_t kPooled = 8;

std::vector<Buffer>& pool() {
  thread_local std::vector<Buffer> buffers;
  return buffers;
}

Buffer take(size_t bytes) {
  std::vector<Buffer>& free = pool();
  const auto found = std::find_if(free.begin(), free.end(), [&](const Buffer& b) { return b.bytes() >= bytes; });
  if (found == free.end()) return Buffer((bytes + 7) / 8, DType::kFloat64);
  Buffer buffer = std::move(*found);
  free.erase(found);
  return buffer;
}

constexpr size_t kLanes = 32, kBlock = 1024, kChunk = 4096;

/// Adds the squares of term(i), begin <= i < end, to 32 lanes; begin is a multiple of 32.
template <class T, class Term>
void add_squares(size_t begin, size_t end, const Term& term, T* to) {
  T lanes[kLanes];
  std::copy_n(to, kLanes, lanes);
  const size_t full = begin + (end - begin) / kLanes * kLanes;
  for (size_t i = begin; i < full; i += kLanes)
    for (size_t l = 0; l < kLanes; ++l) {
      const T v = static_cast<T>(term(i + l));
      lanes[l] += v * v;
    }
  for (size_t i = full; i < end; ++i) {
    const T v = static_cast<T>(term(i));
    lanes[i - full] += v * v;
  }
  std::copy_n(lanes, kLanes, to);
}

/// i -> x_i - h_i in float.
struct FloatDifference {
  const float *x, *h;
  float operator()(size_t i) const { return x[i] - h[i]; }
};

void add_squares(size_t begin, size_t end, const FloatDifference& term, float* to) {
  const size_t full = (end - begin) / kLanes * kLanes;
  kernels::add_square_distances(term.x + begin, term.h + begin, full, to);
  for (size_t i = begin + full; i < end; ++i) to[i - begin - full] += term(i) * term(i);
}

template <class T>
double sum_of_lanes(T* lanes) {
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return static_cast<double>(lanes[0]);
}

/// Sums over i < n of the squares of each of the terms: by chunks, in each of which 32 lanes add in T; chunks add in
/// double. The terms take turns in short blocks, so that what they share is read from memory once; visit(begin, end)
/// follows each block.
template <class T, class Visit, class... Term>
std::array<double, sizeof...(Term)> visited_sums_of_squares(size_t n, const Visit& visit, const Term&... term) {
  std::array<double, sizeof...(Term)> total = {};
  for (size_t begin = 0; begin < n; begin += kChunk) {
    const size_t end = std::min(n, begin + kChunk);
    T lanes[sizeof...(Term)][kLanes] = {};
    for (size_t block = begin; block < end; block += kBlock) {
      size_t which = 0;
      (add_squares(block, std::min(end, block + kBlock), term, lanes[which++]), ...);
      visit(block, std::min(end, block + kBlock));
    }
    for (size_t which = 0; which < sizeof...(Term); ++which) total[which] += sum_of_lanes(lanes[which]);
  }
  return total;
}

constexpr auto kNoVisit = [](size_t, size_t) {};

/// The same of two differences from one vector, in one loop; *ordinary: all magnitudes in that are below 2^96.
template <class Visit>
std::array<double, 2> float_sums_of_squares(size_t n, const FloatDifference& h, const FloatDifference& y,
                                            bool* ordinary, const Visit& visit) {
  std::array<double, 2> total = {};
  uint32_t largest = 0;
  for (size_t begin = 0; begin < n; begin += kChunk) {
    const size_t end = std::min(n, begin + kChunk);
    float to_h[kLanes] = {}, to_y[kLanes] = {};
    for (size_t block = begin; block < end; block += kBlock) {
      const size_t last = std::min(end, block + kBlock), full = block + (last - block) / kLanes * kLanes;
      largest = std::max(
          largest, kernels::add_square_distances(h.x + block, h.h + block, y.h + block, full - block, to_h, to_y));
      add_squares(full, last, h, to_h);
      add_squares(full, last, y, to_y);
      for (size_t i = full; i < last; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(std::abs(h.x[i])));
      visit(block, last);
    }
    total[0] += sum_of_lanes(to_h);
    total[1] += sum_of_lanes(to_y);
  }
  *ordinary = largest < kernels::kExtraordinaryBits;
  return total;
}

bool is_in_range(double sum) { return sum > 0x1p-80 && sum < 0x1p120; }

/// In float where that is exact enough: squares of floats leave float's range beyond 2^64 and below 2^-63.
template <class S, class Term>
double in_range(double sum, size_t n, const Term& term) {
  if (std::is_same_v<S, double> || is_in_range(sum)) return sum;
  return visited_sums_of_squares<double>(n, kNoVisit, term)[0];
}

template <class S, class Term>
double careful_sum_of_squares(size_t n, const Term& term) {
  return in_range<S>(visited_sums_of_squares<S>(n, kNoVisit, term)[0], n, term);
}

/// i -> x_i - h_i, rounded to S as whoever compresses it sees it.
template <class E>
auto difference(ConstView x, ConstView h) {
  using S = typename E::State;
  if constexpr (std::is_same_v<E, Element<DType::kFloat32>>)
    return FloatDifference{x.as<float>(), h.as<float>()};
  else
    return [data = x.data, shift = h.as<S>()](size_t i) { return static_cast<S>(E::load(data, i) - shift[i]); };
}

}  // namespace

ScratchVector::ScratchVector(size_t numel, DType dtype)
    : buffer_(take(numel * size_of(dtype))), dtype_(dtype), numel_(numel) {}

ScratchVector::~ScratchVector() {
  if (pool().size() < kPooled) pool().push_back(std::move(buffer_));
}

void clear(View to) {
  if (to.numel) std::memset(to.data, 0, to.numel * size_of(to.dtype));
}

void add(View to, ConstView x) {
  with_element(to.dtype, [&](auto element) {
    using S = typename decltype(element)::State;
    for (size_t i = 0; i < x.numel; ++i) to.as<S>()[i] += x.as<S>()[i];
  });
}

void add_any(View to, ConstView x) {
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    for (size_t i = 0; i < x.numel; ++i) to.as<typename E::State>()[i] += E::load(x.data, i);
  });
}

void scale(View to, double factor) {
  with_element(to.dtype, [&](auto element) {
    using E = decltype(element);
    for (size_t i = 0; i < to.numel; ++i)
      E::store(to.data, i, E::load(to.data, i) * static_cast<typename E::State>(factor));
  });
}

void divide(View to, double divisor) {
  with_element(to.dtype, [&](auto element) {
    using E = decltype(element);
    for (size_t i = 0; i < to.numel; ++i)
      E::store(to.data, i, E::load(to.data, i) / static_cast<typename E::State>(divisor));
  });
}

void move_towards(View v, ConstView x, double eta) {
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    const S keep = static_cast<S>(1 - eta), take = static_cast<S>(eta);
    for (size_t i = 0; i < x.numel; ++i) v.as<S>()[i] = keep * v.as<S>()[i] + take * E::load(x.data, i);
  });
}

double squared_distance(ConstView x, ConstView h) {
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    return careful_sum_of_squares<S>(x.numel, difference<E>(x, h));
  });
}

double squared_norm(ConstView x) {
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    const auto element_of_x = [&](size_t i) { return E::load(x.data, i); };
    return careful_sum_of_squares<typename E::State>(x.numel, element_of_x);
  });
}

Distances squared_distances(ConstView x, ConstView h, ConstView y) {
  bool ordinary = true;
  return squared_distances(x, h, y, &ordinary, kNoVisit);
}

Distances squared_distances(ConstView x, ConstView h, ConstView y, bool* ordinary,
                            const std::function<void(size_t, size_t)>& visit) {
  return with_element(x.dtype, [&](auto element) -> Distances {
    using E = decltype(element);
    using S = typename E::State;
    const auto from_h = difference<E>(x, h), from_y = difference<E>(x, y);
    std::array<double, 2> sums;
    if constexpr (std::is_same_v<E, Element<DType::kFloat32>>) {
      sums = float_sums_of_squares(x.numel, from_h, from_y, ordinary, visit);
    } else {
      *ordinary = kernels::all_ordinary(x);
      sums = visited_sums_of_squares<S>(x.numel, visit, from_h, from_y);
    }
    return {in_range<S>(sums[0], x.numel, from_h), in_range<S>(sums[1], x.numel, from_y)};
  });
}

void SquaredDistance::add(ConstView x, ConstView h) {
  static_assert(kStretch == kChunk);
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    exact_ = std::is_same_v<S, double>;
    sum_ += visited_sums_of_squares<S>(x.numel, kNoVisit, difference<E>(x, h))[0];
  });
}

// Sums only grow; what is measured again in double differs from the sum in float by far less than half of it.
bool SquaredDistance::surely_above(double bar) const { return sum_ > 2 * bar && is_in_range(sum_); }

std::optional<double> SquaredDistance::total() const {
  return exact_ || is_in_range(sum_) ? std::optional(sum_) : std::nullopt;
}

}  // namespace tsq
