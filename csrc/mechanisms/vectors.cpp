#include "mechanisms/vectors.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/convert.h"

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

constexpr size_t kLanes = 32, kChunk = 4096;

/// Sum of squares of term(i), i < n: by chunks, in each of which 32 lanes add in T; chunks add in double.
template <class T, class Term>
double sum_of_squares(size_t n, const Term& term) {
  double total = 0;
  for (size_t begin = 0; begin < n; begin += kChunk) {
    const size_t length = std::min(kChunk, n - begin), full = length / kLanes * kLanes;
    T lanes[kLanes] = {};
    for (size_t i = 0; i < full; i += kLanes)
      for (size_t l = 0; l < kLanes; ++l) {
        const T v = static_cast<T>(term(begin + i + l));
        lanes[l] += v * v;
      }
    for (size_t l = 0; l < length - full; ++l) {
      const T v = static_cast<T>(term(begin + full + l));
      lanes[l] += v * v;
    }
    for (size_t width = kLanes / 2; width > 0; width /= 2)
      for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    total += static_cast<double>(lanes[0]);
  }
  return total;
}

/// In float where that is exact enough: squares of floats leave float's range beyond 2^64 and below 2^-63.
template <class S, class Term>
double careful_sum_of_squares(size_t n, const Term& term) {
  const double sum = sum_of_squares<S>(n, term);
  if (std::is_same_v<S, double> || (sum > 0x1p-80 && sum < 0x1p120)) return sum;
  return sum_of_squares<double>(n, term);
}

}  // namespace

ScratchVector::ScratchVector(size_t numel, DType dtype)
    : buffer_(take(numel * size_of(dtype))), dtype_(dtype), numel_(numel) {}

ScratchVector::~ScratchVector() {
  if (pool().size() < kPooled) pool().push_back(std::move(buffer_));
}

void assign(View to, ConstView x) {
  if (to.dtype == x.dtype) {
    if (x.numel) std::memcpy(to.data, x.data, x.numel * size_of(x.dtype));
    return;
  }
  with_element(to.dtype, [&](auto to_element) {
    using T = decltype(to_element);
    with_element(x.dtype, [&](auto element) {
      for (size_t i = 0; i < x.numel; ++i)
        T::store(to.data, i, static_cast<typename T::State>(decltype(element)::load(x.data, i)));
    });
  });
}

void subtract(ConstView x, ConstView h, View to) {
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    for (size_t i = 0; i < x.numel; ++i) to.as<S>()[i] = E::load(x.data, i) - h.as<S>()[i];
  });
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
    const S* const shift = h.as<S>();
    // The difference itself is rounded to S, as whoever compresses it sees it.
    return careful_sum_of_squares<S>(x.numel, [&](size_t i) { return static_cast<S>(E::load(x.data, i) - shift[i]); });
  });
}

double squared_norm(ConstView x) {
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    return careful_sum_of_squares<typename E::State>(x.numel, [&](size_t i) { return E::load(x.data, i); });
  });
}

}  // namespace tsq
