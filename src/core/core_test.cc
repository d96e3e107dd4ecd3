// Threads, memory, random numbers and number types.

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <set>

#include "core/arena.h"
#include "core/convert.h"
#include "core/random.h"
#include "core/threads.h"

namespace rookery {
namespace {

TEST(Error, TheMessageIsMadeOnFailureOnly) {
  int made = 0;
  const auto number = [&] { return ++made; };
  check(true) || fail("number {}", number());
  EXPECT_EQ(made, 0);
  try {
    check(false) || fail("number {}", number());
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "number 1");
  }
  EXPECT_EQ(made, 1);
}

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> seen(tasks);
      pool.run(tasks, [&](int64_t task, int worker) {
        EXPECT_LT(worker, threads);
        ++seen[task];
      });
      for (const auto& count : seen) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, RangesCoverEverythingAndDependOnSizesOnly) {
  ThreadPool pool(3);
  for (const int64_t count : {0, 1, 7, 100}) {
    std::mutex mutex;
    std::set<std::pair<int64_t, int64_t>> first, again;
    for (auto* ranges : {&first, &again}) {
      pool.for_ranges(count, 10, [&](int64_t begin, int64_t end, int) {
        const std::lock_guard lock(mutex);
        ranges->emplace(begin, end);
      });
    }
    EXPECT_EQ(first, again);
    int64_t next = 0;
    for (const auto& [begin, end] : first) {
      EXPECT_EQ(begin, next);
      next = end;
    }
    EXPECT_EQ(next, count);
  }
}

TEST(ThreadPool, PassesExceptionsOnAndWorksAfterwards) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.run(50, [](int64_t task, int) { check(task != 33) || fail("task {}", task); }),
               Error);
  std::atomic<int> done{0};
  pool.run(50, [&](int64_t, int) { ++done; });
  EXPECT_EQ(done, 50);
}

TEST(ThreadPool, ACallFromInsideATaskRunsInline) {
  ThreadPool pool(3);
  std::atomic<int> done{0};
  pool.run(4, [&](int64_t, int) { pool.run(5, [&](int64_t, int) { ++done; }); });
  EXPECT_EQ(done, 20);
}

TEST(Arena, GivesTheSameAddressesAfterAReset) {
  Arena arena;
  std::vector<void*> first, again;
  for (auto* addresses : {&first, &again}) {
    arena.reset();
    for (const int64_t bytes : {1, 100, 50 << 20, 7, 0})
      addresses->push_back(arena.allocate(bytes));
  }
  EXPECT_EQ(first, again);
  for (void* address : first)
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % Arena::kAlignment, 0u);
}

TEST(Arena, ScopesReleaseAndPlanningCountsTheSame) {
  Arena real, planned(MemoryKind::kPlan);
  for (Arena* arena : {&real, &planned}) {
    arena->allocate(1000);
    {
      const ArenaScope scope(*arena);
      arena->allocate(100000);
    }
    arena->allocate(500);
  }
  EXPECT_EQ(real.peak(), planned.peak());
  EXPECT_EQ(planned.peak(), 1024 + 100096);
}

TEST(Random, PhiloxIsThePublishedFunction) {
  // Known answers of the Random123 library for Philox4x32-10.
  const auto zero = philox(0, 0, 0);
  EXPECT_EQ(zero, (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(philox(ones, ones, ones),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, MomentsAndPositions) {
  Random random(3);
  double mean = 0, square = 0;
  for (int i = 0; i < 20000; ++i) {
    const double x = random.normal();
    mean += x / 20000;
    square += x * x / 20000;
  }
  EXPECT_NEAR(mean, 0, 0.03);
  EXPECT_NEAR(square, 1, 0.05);
  const uint64_t position = random.position();
  const double next = random.uniform();
  random.set_position(position);
  EXPECT_EQ(random.uniform(), next);
}

TEST(DType, SixteenBitNumbersSurviveTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    if (std::isnan(to_float(half))) {
      EXPECT_TRUE(std::isnan(to_float(to_float16(to_float(half)))));
    } else {
      EXPECT_EQ(to_float16(to_float(half)).bits, half.bits);
    }
    if (std::isnan(to_float(brain))) {
      EXPECT_TRUE(std::isnan(to_float(to_bfloat16(to_float(brain)))));
    } else {
      EXPECT_EQ(to_bfloat16(to_float(brain)).bits, brain.bits);
    }
  }
}

TEST(DType, RoundsToNearestEven) {
  EXPECT_EQ(to_bfloat16(1.0f + 0x1p-8f).bits, to_bfloat16(1.0f).bits);       // a tie, down to even
  EXPECT_EQ(to_float(to_bfloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 2 * 0x1p-7f);  // a tie, up to even
  EXPECT_EQ(to_float(to_float16(1.0f + 0x1p-11f)), 1.0f);
  EXPECT_EQ(to_float(to_float16(1.0f + 3 * 0x1p-11f)), 1.0f + 2 * 0x1p-10f);
  EXPECT_EQ(to_float(to_float16(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(to_float(to_float16(65520.0f))));
  EXPECT_EQ(to_float(to_float16(0x1p-25f)), 0.0f);  // a tie with zero
  EXPECT_EQ(to_float(to_float16(0x1.8p-25f)), 0x1p-24f);
}

}  // namespace
}  // namespace rookery
