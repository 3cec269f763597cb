// SPDX-License-Identifier: Apache-2.0
#include "scheduler/staging.hpp"

#include <algorithm>
#include <random>

#include "doctest/doctest.h"

using namespace foretoken::scheduler;
using namespace std::chrono_literals;

namespace {

constexpr time_point start{1h};

// Micro-batches in order.
std::uint64_t last_sent = 0, last_ended = 0;
void sent(staging& stage, int rows, time_point since, time_point now) {
  stage.sent(++last_sent, rows, since, now);
}
void ended(staging& stage, time_point at) {
  stage.ended(++last_ended, at);
}

// One step after the other, each planned at its due time plus `reaction`; the end of the last.
time_point steady(staging& stage,
                  int steps,
                  int rows,
                  std::chrono::nanoseconds took,
                  std::chrono::nanoseconds reaction,
                  time_point from = start) {
  sent(stage, rows, from, from);
  for (int i = 0; i < steps; ++i) {
    const auto end = from + took;
    const auto planned = std::min(stage.due().value_or(from) + reaction, end);
    sent(stage, rows, {}, planned);
    ended(stage, end);
    from = end;
  }
  return from;
}

}  // namespace

TEST_CASE("staging: behind a step of unknown duration the next one is planned at once") {
  last_ended = last_sent;
  staging stage;
  CHECK_FALSE(stage.due());
  sent(stage, 32, start, start);
  CHECK_FALSE(stage.due());
  ended(stage, start + 1ms);
  CHECK_FALSE(stage.due());
}

TEST_CASE("staging: steady steps leave only the reaction before the end") {
  last_ended = last_sent;
  staging stage;
  const auto begun = steady(stage, 60, 32, 1ms, 50us);
  REQUIRE(stage.due());
  CHECK(*stage.due() > begun + 800us);
  CHECK(*stage.due() < begun + 950us);
}

TEST_CASE("staging: durations are learned apart for each class of rows") {
  last_ended = last_sent;
  staging stage;
  auto at = steady(stage, 60, 32, 1ms, 50us);
  ended(stage, at + 1ms);
  at = steady(stage, 60, 512, 4ms, 50us, at + 1ms);
  CHECK(*stage.due() > at + 3500us);
  ended(stage, at + 4ms);
  sent(stage, 32, {}, at + 4ms);
  CHECK(*stage.due() < at + 5ms);
  CHECK(*stage.due() > at + 4500us);
}

TEST_CASE("staging: what could not be planned any sooner is no slow reaction") {
  last_ended = last_sent;
  staging stage;
  auto at = steady(stage, 60, 32, 1ms, 50us);
  for (int i = 0; i < 60; ++i) {  // decoding: the end of each step makes the next one possible
    const auto end = at + 1ms;
    stage.nobody(end);
    ended(stage, end);
    sent(stage, 32, {}, end + 50us);
    at = end + 50us;
  }
  for (int i = 0; i < 60; ++i) {  // somebody comes between the due time and the end
    const auto end = at + 1ms;
    sent(stage, 32, end - 20us, end);
    ended(stage, end);
    at = end;
  }
  CHECK(*stage.due() > at + 800us);
}

TEST_CASE("staging: a lost device leaves nothing to wait for") {
  last_ended = last_sent;
  staging stage;
  steady(stage, 60, 32, 1ms, 50us);
  stage.lost();
  last_ended = last_sent;
  CHECK_FALSE(stage.due());
  sent(stage, 32, start + 1s, start + 1s);
  CHECK(stage.due() > start + 1s);  // what was learned stays
}

// Durations and reactions vary; the device must still seldom wait, and little.
TEST_CASE("staging: under varying steps the device waits for less than a twentieth of the time") {
  last_ended = last_sent;
  for (const double spread : {0.02, 0.1, 0.3}) {
    CAPTURE(spread);
    std::mt19937 random(7);
    std::normal_distribution<double> duration(1e-3, 1e-3 * spread);
    std::exponential_distribution<double> reaction(1 / 60e-6);
    const auto ns = [](double s) { return std::chrono::nanoseconds(static_cast<long>(s * 1e9)); };
    last_ended = last_sent;
    staging stage;
    double idle = 0;
    double busy = 0;
    double early = 0;  // how long before the end the next one was fixed
    auto begun = start;
    sent(stage, 200, begun, begun);
    for (int i = 0; i < 5000; ++i) {
      const auto end = begun + ns(std::max(1e-4, duration(random)));
      const auto due = stage.due().value_or(begun);
      const auto planned = std::min(due, end) + ns(reaction(random));
      if (planned <= end) {
        sent(stage, 200, {}, planned);
        ended(stage, end);
        early += std::chrono::duration<double>(end - planned).count();
        begun = end;
      } else {
        ended(stage, end);
        sent(stage, 200, {}, planned);
        idle += std::chrono::duration<double>(planned - end).count();
        begun = planned;
      }
      busy += 1e-3;
    }
    CHECK(idle / (idle + busy) < 0.05);
    CHECK(early / 5000 < 0.2e-3 + spread * 2.5e-3);
  }
}

TEST_CASE("staging: steps beside each other start at once while they have few rows") {
  staging stage;
  stage.set_flights(3, 100);
  auto at = start;
  std::uint64_t step = 0;
  for (int i = 0; i < 60; ++i) {  // what each takes is known
    for (const int rows : {30, 200}) {
      stage.sent(++step, rows, at, at);
      stage.ended(step, at + std::chrono::milliseconds(rows == 30 ? 1 : 4));
      at += 5ms;
    }
  }
  stage.sent(1001, 30, at, at);
  stage.sent(1002, 30, at, at);
  CHECK_FALSE(stage.due());
  stage.sent(1003, 200, at, at);
  REQUIRE(stage.due());  // when the first of the short ones is nearly done
  CHECK(*stage.due() > at + 800us);
  CHECK(*stage.due() <= at + 1ms);
  stage.ended(1002, at + 1ms);
  stage.ended(1001, at + 1ms);
  REQUIRE(stage.due());  // the long one is left
  CHECK(*stage.due() > at + 3500us);
  stage.ended(1003, at + 4ms);
  CHECK_FALSE(stage.due());
}
