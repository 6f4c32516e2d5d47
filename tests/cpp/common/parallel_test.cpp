#include "common/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "common/error.h"
#include "vectors.h"

namespace tsq {
namespace {

class Parallel : public testing::Test {
 protected:
  void TearDown() override { set_num_threads(1); }
};

/// How often parallel_for comes by each of [begin, end).
std::vector<int> visits(size_t begin, size_t end, size_t grain) {
  std::vector<std::atomic<int>> count(end);
  parallel_for(begin, end, grain, [&](size_t from, size_t to) {
    EXPECT_TRUE((from - begin) % grain == 0 && from <= to && to <= end);
    for (size_t i = from; i < to; ++i) ++count[i];
  });
  return {count.begin(), count.end()};
}

TEST_F(Parallel, EveryElementOnceOnAnyNumberOfThreads) {
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(num_threads(), threads);
    for (const size_t begin : {0, 5})
      for (const size_t count : {0, 1, 9, 10, 11, 99, 100, 1001, 40000})
        for (const size_t grain : {1, 10, 1000}) {
          std::vector<int> expected(begin + count, 1);
          std::fill_n(expected.begin(), begin, 0);
          EXPECT_EQ(visits(begin, begin + count, grain), expected) << threads << " " << count << " " << grain;
        }
  }
}

TEST_F(Parallel, OnePieceIsTheCallersOwn) {
  set_num_threads(3);
  int calls = 0;
  for (const size_t count : {0, 1, 10})
    parallel_for(7, 7 + count, 10, [&](size_t from, size_t to) {
      EXPECT_EQ(from, 7u);
      EXPECT_EQ(to, 7 + count);
      ++calls;
    });
  EXPECT_EQ(calls, 3);
}

TEST_F(Parallel, ThreadsAreUsedAndNoMoreThanAllowed) {
  for (const int threads : {3, 2}) {  // also fewer than there are
    set_num_threads(threads);
    std::mutex mutex;
    std::set<std::thread::id> seen;
    parallel_for(0, 40, 1, [&](size_t, size_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      const std::lock_guard lock(mutex);
      seen.insert(std::this_thread::get_id());
    });
    EXPECT_GE(seen.size(), 2u);
    EXPECT_LE(seen.size(), static_cast<size_t>(threads));
  }
}

TEST_F(Parallel, ExceptionsComeOutAndThePoolGoesOn) {
  set_num_threads(3);
  for (const size_t bad : {0, 500, 999}) {
    const std::string text = test::error_of<std::runtime_error>([&] {
      parallel_for(0, 1000, 1, [&](size_t from, size_t to) {
        if (from <= bad && bad < to) throw std::runtime_error(concat("at ", bad));
      });
    });
    EXPECT_EQ(text, concat("at ", bad));
    EXPECT_EQ(visits(0, 100, 1), std::vector<int>(100, 1));
  }
}

TEST_F(Parallel, LoopsWithinPiecesAndOfOtherThreadsRunInline) {
  set_num_threads(3);
  std::atomic<size_t> total{0};
  const auto nested = [&] {
    parallel_for(0, 30, 1, [&](size_t from, size_t to) {
      const auto self = std::this_thread::get_id();
      for (size_t i = from; i < to; ++i)
        parallel_for(0, 100, 1, [&](size_t a, size_t b) {
          EXPECT_EQ(std::this_thread::get_id(), self);
          total += b - a;
        });
    });
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back([&] { nested(), nested(); });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total, 4u * 2 * 30 * 100);
}

TEST_F(Parallel, AForkedChildHasThreadsOfItsOwn) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "TSan ends a forked child that starts threads";
#endif
  set_num_threads(3);
  EXPECT_EQ(visits(0, 100, 1), std::vector<int>(100, 1));  // the parent's pool is there
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    const bool right = visits(0, 1000, 1) == std::vector<int>(1000, 1);
    std::exit(right ? 7 : 1);  // with destructors: no thread of the parent's may be waited for
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  EXPECT_EQ(visits(0, 100, 1), std::vector<int>(100, 1));
}

TEST_F(Parallel, NumbersOutOfRangeAreRefused) {
  for (const int count : {0, -1, 257}) {
    const std::string text = test::error_of<ArgumentError>([&] { set_num_threads(count); });
    EXPECT_TRUE(test::contains(text, concat("num_threads: expected 1 to 256, got ", count))) << text;
  }
}

}  // namespace
}  // namespace tsq
