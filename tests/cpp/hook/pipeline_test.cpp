// The worker thread: order, poison, closing; and a stress that is meant to be run under ThreadSanitizer.
#include "hook/pipeline.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <set>

#include "hook/ranks.h"

namespace tsq {
namespace {

using namespace std::chrono_literals;

std::string text_of(const std::exception_ptr& error) {
  if (!error) return "";
  return test::error_of<std::runtime_error>([&] { std::rethrow_exception(error); });
}

/// Waits until it has been called n times; remembers the errors in order.
class Ends {
 public:
  Pipeline::Done done() {
    return [this](std::exception_ptr error) {
      const std::string text = text_of(error);
      const std::lock_guard lock(mutex_);
      texts_.push_back(text);
      changed_.notify_all();
    };
  }
  std::vector<std::string> wait(size_t n) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 30s, [&] { return texts_.size() >= n; }));
    return texts_;
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return texts_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> texts_;
};

TEST(Pipeline, CanBePoisonedFromOutside) {
  Pipeline pipeline;
  Ends ends;
  pipeline.poison("the ranks differ");
  pipeline.poison("later");
  bool ran = false;
  pipeline.submit([&] { ran = true; }, ends.done());
  EXPECT_TRUE(test::contains(ends.wait(1)[0], "failed earlier (the ranks differ)"));
  EXPECT_FALSE(ran);
  EXPECT_EQ(pipeline.error(), "the ranks differ");
}

TEST(Pipeline, RunsTasksInOrderOnOneThread) {
  Pipeline pipeline;
  Ends ends;
  std::vector<int> order;
  std::set<std::thread::id> threads;
  for (int i = 0; i < 200; ++i)
    pipeline.submit([&, i] { order.push_back(i), threads.insert(std::this_thread::get_id()); }, ends.done());
  for (const std::string& error : ends.wait(200)) EXPECT_EQ(error, "");
  for (int i = 0; i < 200; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_EQ(threads.size(), 1u);
  EXPECT_EQ(threads.count(std::this_thread::get_id()), 0u);
  EXPECT_EQ(pipeline.error(), "");
}

TEST(Pipeline, SubmitReturnsAtOnce) {
  Pipeline pipeline;
  Ends ends;
  std::atomic<bool> go = false;
  pipeline.submit(
      [&] {
        while (!go) std::this_thread::sleep_for(1ms);
      },
      ends.done());
  EXPECT_EQ(ends.count(), 0u);  // would not be reached
  go = true;
  ends.wait(1);
}

TEST(Pipeline, IsPoisonedByTheFirstError) {
  Pipeline pipeline;
  Ends ends;
  int ran = 0;
  pipeline.submit([&] { ++ran; }, ends.done());
  pipeline.submit([] { throw std::runtime_error("first trouble"); }, ends.done());
  for (int i = 0; i < 3; ++i)
    pipeline.submit(
        [&] {
          ++ran;
          throw std::runtime_error("second trouble");
        },
        ends.done());
  const std::vector<std::string> errors = ends.wait(5);
  EXPECT_EQ(errors[0], "");
  for (size_t i = 1; i < 5; ++i) {
    EXPECT_TRUE(test::contains(errors[i], "first trouble")) << errors[i];
    EXPECT_TRUE(test::contains(errors[i], "make a new process group")) << errors[i];
    EXPECT_FALSE(test::contains(errors[i], "second trouble"));
  }
  EXPECT_TRUE(test::contains(errors[2], "failed earlier")) << errors[2];
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(pipeline.error(), "first trouble");
}

TEST(Pipeline, SurvivesWhatIsNoException) {
  Pipeline pipeline;
  Ends ends;
  pipeline.submit([] { throw 42; }, ends.done());
  EXPECT_TRUE(test::contains(ends.wait(1)[0], "unknown error"));
}

TEST(Pipeline, RunDoesNotPoisonAndIsNotRefused) {
  Pipeline pipeline;
  Ends ends;
  std::string seen;
  pipeline.submit([&] { seen += "a"; }, ends.done());
  pipeline.run([&] { seen += "b"; });
  EXPECT_EQ(seen, "ab");  // after what was queued
  EXPECT_THROW(pipeline.run([] { throw ArgumentError("not me"); }), ArgumentError);
  EXPECT_EQ(pipeline.error(), "");
  pipeline.submit([] { throw std::runtime_error("poison"); }, ends.done());
  pipeline.run([&] { seen += "c"; });
  EXPECT_EQ(seen, "abc");
  EXPECT_EQ(pipeline.error(), "poison");
}

TEST(Pipeline, CloseDrainsTheQueue) {
  Pipeline pipeline;
  Ends ends;
  int ran = 0;
  for (int i = 0; i < 50; ++i) pipeline.submit([&] { std::this_thread::sleep_for(200us), ++ran; }, ends.done());
  pipeline.close();
  EXPECT_EQ(ran, 50);
  EXPECT_EQ(ends.count(), 50u);
  pipeline.close();  // again: nothing
  pipeline.submit([&] { ++ran; }, ends.done());
  EXPECT_TRUE(test::contains(ends.wait(51)[50], "closed"));
  EXPECT_EQ(ran, 50);
  EXPECT_THROW(pipeline.run([] {}), std::runtime_error);
}

TEST(Pipeline, DestructionEndsEveryJob) {
  for (int trial = 0; trial < 50; ++trial) {
    Ends ends;
    {
      Pipeline pipeline;
      for (int i = 0; i < 5; ++i)
        pipeline.submit(
            [i, trial] {
              if (i == trial % 10) throw std::runtime_error("x");
            },
            ends.done());
    }
    ASSERT_EQ(ends.count(), 5u);
  }
}

TEST(Pipeline, ClosesFromSeveralThreads) {
  Pipeline pipeline;
  Ends ends;
  for (int i = 0; i < 20; ++i) pipeline.submit([] { std::this_thread::sleep_for(100us); }, ends.done());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { pipeline.close(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ends.count(), 20u);
}

TEST(Pipeline, CallbacksMaySubmit) {
  Pipeline pipeline;
  Ends ends;
  int ran = 0;
  std::function<void(std::exception_ptr)> again = [&](std::exception_ptr error) {
    ASSERT_FALSE(error);
    if (++ran < 100)
      pipeline.submit([] {}, again);
    else
      ends.done()(nullptr);
  };
  pipeline.submit([] {}, again);
  ends.wait(1);
  EXPECT_EQ(ran, 100);
}

/// Three ranks, each with a thread that makes gradients and a worker that averages 2,000 buckets behind its back.
TEST(Pipeline, StressOfManyBuckets) {
  constexpr uint32_t kBuckets = 200, kSteps = 10;
  for (const ExchangeKind kind : {ExchangeKind::kAllGather, ExchangeKind::kSharded}) {
    const auto group = std::make_shared<LoopbackGroup>(3);
    std::vector<double> sums(3);
    test::on_ranks(group, [&](int rank) {
      std::vector<Parameter> parameters;
      const MechanismPtr m = parse_mechanism("ErrorFeedback(Quantizer(bits=4, block=32))");
      for (uint32_t id = 0; id < kBuckets; ++id) parameters.push_back({"p", 1 + 7 * (id % 60), DType::kFloat32, m, m});
      Averager averager(parameters, {.exchange = kind}, std::make_unique<LoopbackExchange>(group, rank));
      Pipeline pipeline;
      std::mt19937 random(static_cast<uint32_t>(rank));
      for (uint32_t step = 0; step < kSteps; ++step) {
        Ends ends;
        std::vector<test::Vector> buffers;
        for (uint32_t id = 0; id < kBuckets; ++id) {
          buffers.push_back(test::random_vector(DType::kFloat32, parameters[id].numel,
                                                3 * (id + kBuckets * step) + static_cast<uint32_t>(rank)));
          const View buffer = buffers.back().view();
          const std::chrono::microseconds delay(random() % 16 ? 0 : random() % 200);
          pipeline.submit(
              [&averager, buffer, id, delay] {
                if (delay.count()) std::this_thread::sleep_for(delay);
                averager.average(std::array{id}, buffer);
              },
              ends.done());
          if (random() % 64 == 0) (void)averager.stats();
        }
        for (const std::string& error : ends.wait(kBuckets)) ASSERT_EQ(error, "");
        for (const test::Vector& buffer : buffers)
          for (size_t i = 0; i < buffer.size(); ++i)
            sums[static_cast<size_t>(rank)] += buffer[i] * static_cast<double>(i + 1);
        pipeline.run([&] { averager.scale_state(0.5); });
      }
    });
    EXPECT_NE(sums[0], 0.0);
    EXPECT_EQ(sums[0], sums[1]);
    EXPECT_EQ(sums[0], sums[2]);
  }
}

/// A peer dies in the middle: every job of every rank ends, the first error is told to all.
TEST(Pipeline, StressOfADeadPeer) {
  const auto group = std::make_shared<LoopbackGroup>(3);
  test::on_ranks(group, [&](int rank) {
    const MechanismPtr m = parse_mechanism("ErrorFeedback(Quantizer())");
    Averager averager({{"p", 500, DType::kFloat32, m, m}}, {.exchange = ExchangeKind::kSharded},
                      std::make_unique<LoopbackExchange>(group, rank));
    Ends ends;
    std::vector<test::Vector> buffers(100, test::random_vector(DType::kFloat32, 500, 1));
    Pipeline pipeline;
    for (size_t i = 0; i < buffers.size(); ++i)
      pipeline.submit(
          [&, i] {
            if (rank == 1 && i == 50) {
              group->abort();
              throw std::runtime_error("killed");
            }
            averager.average(std::array{0u}, buffers[i].view());
          },
          ends.done());
    const std::vector<std::string> errors = ends.wait(100);
    EXPECT_EQ(errors[49], "");
    for (size_t i = 50; i < 100; ++i)
      EXPECT_TRUE(test::contains(errors[i], rank == 1 ? "killed" : "a peer is gone")) << errors[i];
  });
}

}  // namespace
}  // namespace tsq
