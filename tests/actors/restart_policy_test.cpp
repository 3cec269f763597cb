// SPDX-License-Identifier: Apache-2.0
#include "actors/restart_policy.hpp"

#include <vector>

#include <doctest/doctest.h>

using namespace foretoken::actors;
using namespace std::chrono_literals;

namespace {
constexpr restart_policy::time_point start{};
}

TEST_CASE("restart_policy: the wait doubles up to its bound and the fifth death in a row alarms") {
  restart_policy policy(10ms, 100ms);
  std::vector<std::chrono::milliseconds> waits;
  for (int death = 1; death <= 7; ++death) {
    const auto verdict = policy.died(start, false);
    waits.push_back(verdict.wait);
    CHECK(verdict.deaths == death);
    CHECK(verdict.alarm == (death == restart_policy::alarm_deaths));
  }
  CHECK(waits == std::vector{10ms, 20ms, 40ms, 80ms, 100ms, 100ms, 100ms});
  while (policy.deaths() + 1 < restart_policy::reminder_deaths) policy.died(start, false);
  CHECK(policy.died(start, false).alarm);
}

TEST_CASE("restart_policy: a row ends when an executor stayed up for more than a second") {
  restart_policy policy(10ms, 100ms);
  policy.died(start, false);
  policy.came_up(start);
  CHECK(policy.died(start + 1s, false).wait == 20ms);
  policy.came_up(start + 1s);
  const auto verdict = policy.died(start + 3s, false);
  CHECK(verdict.wait == 10ms);
  CHECK(verdict.deaths == 1);
  // One that was never up was not quiet, however long its device took to fail.
  CHECK(policy.died(start + 60s, false).deaths == 2);
}

TEST_CASE("restart_policy: a kill by command is no death") {
  restart_policy policy(10ms, 100ms);
  for (int i = 0; i < 10; ++i) {
    const auto verdict = policy.died(start, true);
    CHECK(verdict.wait == 10ms);
    CHECK_FALSE(verdict.alarm);
  }
  CHECK(policy.died(start, false).deaths == 1);
}
