// Sweeps of payloads whose length has a closed formula at the multiples of a group: on several threads where the user
// wants them (common/parallel.h), with the same bytes and states as on one.
#pragma once

#include <atomic>

#include "common/dtype.h"
#include "common/parallel.h"

namespace tsq {

/// f(begin, count) for pieces of n elements that begin at multiples of 65536, hence of every codec's group.
template <class F>
void sweep(size_t n, const F& f) {
  parallel_for(0, n, size_t{1} << 16, [&](size_t begin, size_t end) { f(begin, end - begin); });
}

/// The same; whether f was true everywhere.
template <class F>
bool sweep_all(size_t n, const F& f) {
  std::atomic<bool> all{true};
  sweep(n, [&](size_t begin, size_t count) {
    if (!f(begin, count)) all.store(false, std::memory_order_relaxed);
  });
  return all;
}

/// The state's element `begin`; null stays null.
inline void* state_at(void* state, DType dtype, size_t begin) {
  return state == nullptr ? nullptr : static_cast<char*>(state) + begin * size_of(state_dtype(dtype));
}

}  // namespace tsq
