#include "common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "common/error.h"

namespace tsq {

namespace {

using Body = std::function<void(size_t, size_t)>;

constexpr int kMaxThreads = 256;
constexpr size_t kPiecesPerThread = 4;  // so that a thread whose core is busy holds the others up for a quarter at most

thread_local bool in_a_piece = false;

/// One loop: pieces are taken from `next` by whoever is free.
class Loop {
 public:
  Loop(size_t begin, size_t end, size_t piece, const Body& body)
      : next_(begin), end_(end), piece_(piece), body_(body) {}

  void work() {
    in_a_piece = true;
    for (;;) {
      const size_t from = next_.fetch_add(piece_);
      if (from >= end_) break;
      try {
        body_(from, std::min(end_, from + piece_));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_ = end_;
      }
    }
    in_a_piece = false;
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<size_t> next_;
  const size_t end_, piece_;
  const Body& body_;
  std::mutex mutex_;
  std::exception_ptr error_;
};

/// Never destroyed: stop() ends its threads.
class Pool {
 public:
  /// Runs the loop on the caller and up to `helpers` threads; on the caller alone if the pool is taken.
  void run(Loop& loop, size_t helpers) {
    const std::unique_lock taken(in_use_, std::try_to_lock);
    if (!taken) return loop.work();
    {
      const std::lock_guard lock(mutex_);
      if (!stopping_) start(helpers);
      loop_ = &loop;
      places_ = std::min(helpers, threads_.size());
    }
    wake_.notify_all();
    loop.work();
    // Nothing is left to begin; who has not woken up by now is not waited for.
    std::unique_lock lock(mutex_);
    loop_ = nullptr;
    done_.wait(lock, [&] { return active_ == 0; });
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void start(size_t helpers) {
    try {
      while (threads_.size() < helpers) threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {  // no more to be had: fewer do
    }
  }

  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || (loop_ != nullptr && places_ > 0); });
      if (stopping_) return;
      Loop* const loop = loop_;
      --places_;
      ++active_;
      lock.unlock();
      loop->work();
      lock.lock();
      if (--active_ == 0) done_.notify_all();
    }
  }

  std::mutex in_use_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Loop* loop_ = nullptr;
  size_t places_ = 0, active_ = 0;
  bool stopping_ = false;
};

std::atomic<Pool*> pool{nullptr};

/// Threads do not survive a fork: the child forgets its parent's pool, whose locks may be held for ever.
Pool& get_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    pool = nullptr;
    in_a_piece = false;
  });
  (void)registered;
  Pool* found = pool.load();
  if (found != nullptr) return *found;
  auto made = new Pool;
  if (pool.compare_exchange_strong(found, made)) return *made;
  delete made;
  return *found;
}

/// At exit, so that no thread is left in a process that takes its libraries down.
const struct AtExit {
  ~AtExit() {
    if (Pool* const found = pool.load(); found != nullptr && !in_a_piece) found->stop();
  }
} at_exit;

}  // namespace

void set_num_threads(int64_t count) {
  if (count < 1 || count > kMaxThreads)
    throw ArgumentError(concat("num_threads: expected 1 to ", kMaxThreads, ", got ", count));
  detail::threads = static_cast<int>(count);
}

int num_threads() { return detail::threads; }

void detail::parallel_for(size_t begin, size_t end, size_t grain, const Body& f) {
  const auto count = static_cast<size_t>(num_threads());
  if (in_a_piece || count == 1) return f(begin, end);
  const size_t grains = (end - begin + grain - 1) / grain;
  const size_t at_once = std::max<size_t>(1, grains / (kPiecesPerThread * count));
  Loop loop(begin, end, grain * at_once, f);
  get_pool().run(loop, std::min(count, grains) - 1);
  loop.rethrow();
}

}  // namespace tsq
