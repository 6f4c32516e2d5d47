// A loop cut into pieces that run on a few threads of our own. Off until set_num_threads: a hook's worker is there to
// leave the cores to the training. The threads are started by the first loop that uses them and sleep between loops.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace tsq {

/// Threads that a loop may use, the caller's included; 1 to 256, at first 1. Throws ArgumentError. For the whole
/// process; loops that are under way keep theirs.
void set_num_threads(int64_t count);
int num_threads();

namespace detail {

inline std::atomic<int> threads{1};

/// parallel_for with at least two pieces and more than one thread.
void parallel_for(size_t begin, size_t end, size_t grain, const std::function<void(size_t, size_t)>& f);

}  // namespace detail

/// Calls f(from, to) for pieces that together are [begin, end), each once, in any order and on any thread; a piece
/// begins a multiple of `grain` (> 0) behind `begin`. Returns when all are done. One piece, even an empty one, is the
/// caller's own and costs nothing; so are all pieces of a loop within a piece, and of a loop while another thread's is
/// running. What f throws, the first of it, comes out of here; pieces that were not begun then are left out. After
/// fork() the child starts threads of its own.
template <class F>
void parallel_for(size_t begin, size_t end, size_t grain, const F& f) {
  if (end - begin <= grain || detail::threads.load(std::memory_order_relaxed) == 1)
    f(begin, end);
  else
    detail::parallel_for(begin, end, grain, std::ref(f));
}

}  // namespace tsq
