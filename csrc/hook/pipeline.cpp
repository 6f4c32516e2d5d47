#include "hook/pipeline.h"

#include <future>
#include <memory>
#include <stdexcept>

#include "common/error.h"

namespace tsq {

namespace {

std::string what(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown error";
  }
}

std::exception_ptr runtime_error(const std::string& message) {
  return std::make_exception_ptr(std::runtime_error(message));
}

constexpr const char* kAdvice =
    "the ranks are out of step and this hook cannot be used again; make a new process group and a new "
    "DistributedDataParallel";

}  // namespace

Pipeline::Pipeline() : worker_([this] { loop(); }) {}

Pipeline::~Pipeline() { close(); }

void Pipeline::submit(Task task, Done done) {
  {
    std::unique_lock lock(mutex_);
    if (!closing_) {
      queue_.push_back({std::move(task), std::move(done)});
      lock.unlock();
      changed_.notify_one();
      return;
    }
  }
  done(runtime_error("torch_smoothquant: the hook is closed; make a new DistributedDataParallel to train on"));
}

void Pipeline::run(const Task& task) {
  // Shared: the worker may still be inside set_value when we return.
  const auto promise = std::make_shared<std::promise<void>>();
  std::future<void> finished = promise->get_future();
  {
    const std::lock_guard lock(mutex_);
    if (closing_) throw std::runtime_error("torch_smoothquant: the hook is closed");
    queue_.push_back({[&task, promise] {
                        try {
                          task();
                          promise->set_value();
                        } catch (...) {
                          promise->set_exception(std::current_exception());
                        }
                      },
                      nullptr});
  }
  changed_.notify_one();
  finished.get();
}

void Pipeline::close() {
  if (std::this_thread::get_id() == worker_.get_id())
    throw std::logic_error(
        "torch_smoothquant: close: expected a call from outside the callbacks of the hook's own futures");
  const std::lock_guard closing(close_mutex_);
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

std::string Pipeline::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

void Pipeline::poison(const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (error_.empty()) error_ = why;
}

void Pipeline::loop() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;  // closing drains the queue first
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    execute(job);
  }
}

void Pipeline::execute(Job& job) {
  if (!job.done) return job.task();
  const std::string before = error();
  if (!before.empty())
    return job.done(runtime_error(concat("torch_smoothquant: failed earlier (", before, "): ", kAdvice)));
  std::exception_ptr error;
  try {
    job.task();
  } catch (...) {
    const std::string message = what(std::current_exception());
    poison(message);
    error = runtime_error(concat("torch_smoothquant: averaging a bucket failed: ", message, "; ", kAdvice));
  }
  job.done(error);  // last touch: whoever waits for it may submit the next task or destroy what the task used
}

}  // namespace tsq
