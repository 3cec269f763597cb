// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <span>
#include <thread>
#include <vector>

#include "base/counters.hpp"
#include "doctest/doctest.h"

namespace foretoken::cpu {
namespace {

TEST_CASE("thread_pool: every ticket runs once, in every phase") {
  for (const int threads : {1, 2, 5}) {
    thread_pool pool(threads);
    CHECK(pool.threads() == threads);
    for (int phase = 0; phase < 3000; ++phase) {
      const int tickets = phase % 17;
      std::vector<int> runs(static_cast<std::size_t>(tickets),
                            0);  // plain: the phase end orders them
      pool.run(tickets, [&](int ticket, int thread) {
        runs[static_cast<std::size_t>(ticket)] += thread >= 0 && thread < threads ? 1 : 100;
      });
      for (const int count : runs) REQUIRE(count == 1);
    }
  }
}

TEST_CASE("thread_pool: the gauge shows the threads that work") {
  gauge working;
  thread_pool pool(3, &working);
  CHECK(working.value() == pool.threads());
}

TEST_CASE("thread_pool: what waiting threads ask for changes no phase") {
  thread_pool pool(2);
  const std::vector<std::byte> bytes(100000);
  for (int phase = 0; phase < 2000; ++phase) {
    for (int thread = 0; thread < pool.threads(); ++thread) {
      const auto first =
          static_cast<std::size_t>(phase / 3 * 97 % 1000);  // some stay, as in a step
      pool.read_while_waiting(thread, std::span(bytes).subspan(first, first * 99));
    }
    std::atomic<int> runs{0};
    pool.run(5, [&](int ticket, int) { runs.fetch_add(1 << 4 * ticket); });
    REQUIRE(runs.load() == 0x11111);
  }
}

TEST_CASE("thread_pool: a phase after a long pause wakes parked threads") {
  thread_pool pool(3);
  for (int phase = 0; phase < 20; ++phase) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // long enough for all to park
    std::atomic<int> runs{0};
    pool.run(50, [&](int, int) { runs.fetch_add(1); });
    CHECK(runs.load() == 50);
  }
}

TEST_CASE("thread_pool: a slow ticket of one thread leaves the rest to the others") {
  thread_pool pool(2);
  std::atomic<int> others{0};
  pool.run(200, [&](int ticket, int) {
    if (ticket != 0) {
      others.fetch_add(1);
      return;
    }
    // Holds one ticket until all others are done by someone else.
    while (others.load() < 199) std::this_thread::yield();
  });
  CHECK(others.load() == 199);
}

TEST_CASE("thread_pool: more threads than cores still finish") {
  thread_pool pool(8);
  long long sum = 0;
  for (int phase = 0; phase < 300; ++phase) {
    std::atomic<long long> phase_sum{0};
    pool.run(64, [&](int ticket, int) { phase_sum.fetch_add(ticket); });
    sum += phase_sum.load();
  }
  CHECK(sum == 300LL * 64 * 63 / 2);
}

// Long enough for threads to rest and to be recalled, where the system tells who waits.
TEST_CASE("thread_pool: beside other programs every ticket still runs once") {
  thread_pool pool(4);
  std::atomic<bool> stop{false};
  std::vector<std::thread> competitors;
  for (int i = 0; i < 2; ++i) {
    competitors.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(600);
  bool every_once = true, within = true;
  while (std::chrono::steady_clock::now() < end) {
    std::vector<int> runs(24, 0);  // plain: the phase end orders them
    pool.run(24, [&](int ticket, int thread) {
      for (int i = 0; i < 2000; ++i) asm volatile("" : "+r"(i));
      runs[static_cast<std::size_t>(ticket)] += thread >= 0 && thread < 4 ? 1 : 100;
    });
    for (const int count : runs) every_once = every_once && count == 1;
    within = within && pool.threads() >= 1 && pool.threads() <= 4;
  }
  stop.store(true);
  for (std::thread& one : competitors) one.join();
  CHECK(every_once);
  CHECK(within);
}

}  // namespace
}  // namespace foretoken::cpu
