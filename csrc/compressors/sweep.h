// Sweeps of payloads whose length has a closed formula at the multiples of a group: on several threads where the user
// wants them (common/parallel.h), with the same bytes and states as on one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <span>
#include <vector>

#include "common/bytes.h"
#include "common/convert.h"
#include "common/parallel.h"
#include "compressors/deliver.h"

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

/// Bodies of any length, one for each segment, in order and without a gap between them: write(s, to) writes that of
/// segment s and returns its length; slot(s) is where it would begin, from `out`, if all before it were as long as they
/// can be. Returns the length of all. With more than one thread every piece is written from its slot on, then moved.
template <class Slot, class Write>
size_t write_bodies(size_t segments, uint8_t* out, const Slot& slot, const Write& write) {
  struct Piece {
    size_t first, bytes;
  };
  std::vector<Piece> pieces;
  std::mutex mutex;
  parallel_for(0, segments, 1, [&](size_t first, size_t end) {
    uint8_t* const begin = out + slot(first);
    uint8_t* to = begin;
    for (size_t s = first; s < end; ++s) to += write(s, to);
    const std::lock_guard lock(mutex);
    pieces.push_back({first, static_cast<size_t>(to - begin)});
  });
  std::ranges::sort(pieces, {}, &Piece::first);
  size_t bytes = 0;
  for (const Piece& piece : pieces) {
    const size_t from = slot(piece.first);
    if (from != bytes) std::memmove(out + bytes, out + from, piece.bytes);
    bytes += piece.bytes;
  }
  return bytes;
}

/// decode_update of payloads that can be added in parts: add(payload, begin, acc) adds the elements from `begin`, a
/// multiple of 4096, to all of its `acc`. A tile of the sums stays in the cache until it is written to `out`.
template <class Add>
void sweep_update(std::span<const Bytes> in, View acc, View out, const Add& add) {
  constexpr size_t kInCache = 4096;
  sweep(acc.numel, [&](size_t first, size_t numel) {
    for (size_t begin = first, end = first + numel; begin < end; begin += kInCache) {
      const View sums = acc.slice(begin, std::min(kInCache, end - begin));
      for (const Bytes& payload : in) add(payload, begin, sums);
      deliver(out.slice(begin, sums.numel), sums, out.numel);
    }
  });
}

/// The state's element `begin`; null stays null.
inline void* state_at(void* state, DType dtype, size_t begin) {
  return state == nullptr ? nullptr : static_cast<char*>(state) + begin * size_of(state_dtype(dtype));
}

}  // namespace tsq
