// SPDX-License-Identifier: Apache-2.0
#include "tools/stop_limit.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using foretoken::tools::exit_device;
using foretoken::tools::exit_success;
using foretoken::tools::stop_limit;

namespace {

constexpr int ended_by_itself = 42;
constexpr std::chrono::seconds far_away{60};

// What a process ends with that stops under a limit with `open` requests for `stop_takes`.
int ended_with(std::chrono::milliseconds longest,
               std::chrono::milliseconds stop_takes,
               int open,
               foretoken::tools::exit_code code) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    {
      const stop_limit limit(
          longest, [open] { return open; }, code);
      std::this_thread::sleep_for(stop_takes);
    }
    _exit(ended_by_itself);
  }
  int ended = 0;
  REQUIRE(waitpid(child, &ended, 0) == child);
  REQUIRE(WIFEXITED(ended));
  return WEXITSTATUS(ended);
}

}  // namespace

TEST_CASE("stop limit: a stop that hangs is ended; requests that are open make it a failure") {
  CHECK(ended_with(10ms, far_away, 3, exit_success) == 1);
  CHECK(ended_with(10ms, far_away, 0, exit_success) == 0);
}

TEST_CASE("stop limit: the code of a lost device stays, whoever is open") {
  CHECK(ended_with(10ms, far_away, 3, exit_device) == 70);
  CHECK(ended_with(10ms, far_away, 0, exit_device) == 70);
}

TEST_CASE("stop limit: a stop in time ends by itself") {
  CHECK(ended_with(far_away, 0ms, 3, exit_success) == ended_by_itself);
}
