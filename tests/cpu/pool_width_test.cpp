// SPDX-License-Identifier: Apache-2.0
#include "cpu/pool_width.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <thread>
#include <vector>

#include "cpu/thread_times.hpp"
#include "doctest/doctest.h"

namespace foretoken::cpu {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

// A machine with as many cores as the pool has threads, in simulated time: looks every millisecond.
struct machine {
  int cores;
  int competitors = 0;        // that use a core without end
  double waits_anyhow = .02;  // share of its time that each thread waits on a quiet machine
  double works = 1;           // share of the time that the pool has work
  pool_width width{cores};
  pool_width::clock::time_point now{seconds(1000)};
  std::vector<thread_times> times = std::vector<thread_times>(static_cast<std::size_t>(cores));
  std::vector<int> widths{};  // of each millisecond passed

  // Threads that share their core: the last ones that work.
  double waiting_share(int thread) const {
    const int free_cores = cores - competitors;
    return thread >= free_cores ? 0.48 : waits_anyhow;
  }

  void pass(milliseconds how_long) {
    for (milliseconds passed{0}; passed < how_long; ++passed) {
      now += milliseconds(1);
      widths.push_back(width.threads());
      for (int i = 0; i < width.threads(); ++i) {
        const double worked = works * 1e6;
        times[static_cast<std::size_t>(i)].waited +=
            nanoseconds(static_cast<long>(worked * waiting_share(i)));
        times[static_cast<std::size_t>(i)].ran +=
            nanoseconds(static_cast<long>(worked * (1 - waiting_share(i))));
      }
      if (width.due(now)) width.look(now, times);
    }
  }
  // Share of the last so many milliseconds with that width.
  double share_of(int threads, int last) const {
    return static_cast<double>(std::count(widths.end() - last, widths.end(), threads)) / last;
  }
};

TEST_CASE("pool_width: a quiet machine has all threads, always") {
  for (const int cores : {1, 2, 4, 16, 64}) {
    CAPTURE(cores);
    machine one{cores};
    one.pass(seconds(20));
    CHECK(one.share_of(cores, 20000) == 1);
  }
}

TEST_CASE("pool_width: beside a competitor there is one thread less, soon and nearly always") {
  for (const int cores : {2, 4, 16, 64}) {
    CAPTURE(cores);
    machine one{cores};
    one.pass(seconds(5));
    one.competitors = 1;
    one.pass(milliseconds(60));
    CHECK(one.width.threads() == cores - 1);
    one.pass(seconds(1));
    CHECK(one.share_of(cores - 1, 1000) > 0.85);
    one.pass(seconds(20));
    CHECK(one.share_of(cores - 1, 15000) > 0.95);
  }
}

TEST_CASE("pool_width: as many threads as there are free cores") {
  machine one{16};
  one.competitors = 6;
  one.pass(seconds(10));
  CHECK(one.share_of(10, 5000) > 0.9);
  one.competitors = 3;  // three cores are free again
  one.pass(seconds(10));
  CHECK(one.share_of(13, 5000) > 0.9);
}

TEST_CASE("pool_width: when the competitor ends, all threads are back within a second or so") {
  for (const int seconds_busy : {1, 5, 60}) {
    CAPTURE(seconds_busy);
    machine one{2};
    one.competitors = 1;
    one.pass(seconds(seconds_busy));
    one.competitors = 0;
    one.pass(milliseconds(1100));
    CHECK(one.width.threads() == 2);
    one.pass(seconds(5));
    CHECK(one.share_of(2, 5000) == 1);
  }
}

TEST_CASE("pool_width: a short disturbance costs at most a moment") {
  machine one{2};
  one.pass(seconds(1));
  one.competitors = 1;
  one.pass(milliseconds(8));  // a burst of another thread of the same program
  one.competitors = 0;
  one.pass(seconds(1));
  CHECK(one.share_of(2, 1000) == 1);
  one.competitors = 1;
  one.pass(milliseconds(60));
  one.competitors = 0;
  one.pass(milliseconds(150));
  CHECK(one.width.threads() == 2);
}

TEST_CASE("pool_width: small competitors that are always there take no thread of two") {
  machine one{2};
  one.waits_anyhow = 0.3;
  one.pass(seconds(20));
  CHECK(one.share_of(2, 20000) == 1);
}

TEST_CASE("pool_width: one thread stays, however busy the machine") {
  machine one{4};
  one.competitors = 4;
  one.pass(seconds(10));
  CHECK(one.share_of(1, 5000) > 0.9);
}

TEST_CASE("pool_width: work is judged, not the time between; a pool with little to do learns too") {
  machine one{2};
  one.works = 0.1;
  one.competitors = 1;
  one.pass(milliseconds(400));
  CHECK(one.width.threads() == 1);
}

TEST_CASE("pool_width: another thread's times begin a new window") {
  pool_width width(2);
  pool_width::clock::time_point now{seconds(1000)};
  const auto passed = [](int ran, int waited) {
    return std::vector<thread_times>(2, {milliseconds(ran), milliseconds(waited)});
  };
  CHECK_FALSE(width.look(now, passed(10, 10)));
  width.start_window(now, passed(1000, 9000));
  CHECK_FALSE(width.due(now));
  now += seconds(1);
  CHECK_FALSE(width.look(now, passed(1100, 9000)));
  CHECK(width.threads() == 2);
  now += seconds(1);
  CHECK(width.look(now, passed(1110, 9090)));
  CHECK(width.threads() == 1);
}

TEST_CASE("thread_times: a thread that computes has run, as another thread can read") {
  const thread_books books = thread_books::of_this_thread();
  const auto before = books.read();
  if (!before) return;  // this system keeps none
  const auto end = std::chrono::steady_clock::now() + milliseconds(30);
  while (std::chrono::steady_clock::now() < end) {
  }
  std::optional<thread_times> after;
  std::thread([&] { after = books.read(); }).join();
  REQUIRE(after);
  const auto ran = after->ran - before->ran;
  const auto waited = after->waited - before->waited;
  CHECK(ran + waited > milliseconds(20));
  CHECK(ran > milliseconds(0));
  CHECK_FALSE(thread_books().read());
}

}  // namespace
}  // namespace foretoken::cpu
