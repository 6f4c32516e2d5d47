// One worker thread that runs tasks in the order in which they were submitted, so that every rank issues its
// collectives in the same order. Knows nothing of what the tasks do.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace tsq {

class Pipeline {
 public:
  using Task = std::function<void()>;
  /// Told how a task ended, on the worker thread: null, or the error. It must not throw.
  using Done = std::function<void(std::exception_ptr)>;

  Pipeline();
  ~Pipeline();  ///< close()
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  /// Queues a task; returns at once. If it throws, the pipeline is poisoned: `done` gets a std::runtime_error that
  /// tells what happened, and so does every later task's, without being run, because the ranks are out of step from
  /// there on. After close(), `done` is called at once with an error.
  void submit(Task task, Done done);

  /// Runs `task` on the worker after what is queued, waits for it and rethrows what it throws. Does not poison and is
  /// not refused by a poisoned pipeline: for reading and writing state between steps. Throws std::runtime_error after
  /// close().
  void run(const Task& task);

  /// What submit() does when a task throws, for who else finds the ranks out of step. The first reason stays.
  void poison(const std::string& why);

  /// Lets the queue run empty, then joins the thread. Idempotent. Waits as long as the queued tasks take (a poisoned
  /// pipeline: not at all).
  void close();

  /// What poisoned it; empty while all is well. Any thread.
  std::string error() const;

 private:
  struct Job {
    Task task;
    Done done;  // null for run()
  };

  void loop();
  void execute(Job& job);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> queue_;
  bool closing_ = false;
  std::string error_;       // guarded by mutex_
  std::mutex close_mutex_;  // one joiner at a time
  std::thread worker_;      // last: starts when everything above exists
};

}  // namespace tsq
