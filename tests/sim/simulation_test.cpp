// SPDX-License-Identifier: Apache-2.0
#include "simulation.hpp"

#include <cstdlib>
#include <string>

#include "doctest/doctest.h"

using foretoken::sim::fault;
using foretoken::sim::outcome;
using foretoken::sim::run;

namespace {
// FORETOKEN_SIM_SEEDS=100000 looks longer; FORETOKEN_SIM_FIRST repeats one seed.
std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}
}  // namespace

TEST_CASE("simulation: every sequence gets exactly its tokens, whatever happens beside it") {
  const std::uint64_t first = setting("FORETOKEN_SIM_FIRST", 1);
  const std::uint64_t seeds = setting("FORETOKEN_SIM_SEEDS", 2000);
  outcome sum;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    const outcome one = run(seed);
    REQUIRE_MESSAGE(one.failure.empty(), "seed " << seed << ": " << one.failure);
    sum.steps += one.steps;
    sum.tokens += one.tokens;
    sum.preemptions += one.preemptions;
    sum.recovered += one.recovered;
    sum.cached += one.cached;
    sum.copies += one.copies;
    sum.finished += one.finished;
    sum.cancelled += one.cancelled;
    sum.poison_deaths += one.poison_deaths;
    sum.condemned += one.condemned;
    sum.large_steps += one.large_steps;
  }
  MESSAGE("steps " << sum.steps << ", tokens " << sum.tokens << ", finished " << sum.finished
                   << ", cancelled " << sum.cancelled << ", preemptions " << sum.preemptions
                   << ", recovered " << sum.recovered << ", cached tokens " << sum.cached
                   << ", page copies " << sum.copies << ", deaths by poison " << sum.poison_deaths
                   << ", poisons ended " << sum.condemned);
  // A simulation that never met these would prove little.
  if (seeds < 1000) return;
  CHECK(sum.finished > 10000);
  CHECK(sum.cancelled > 1000);
  CHECK(sum.preemptions > 500);
  CHECK(sum.recovered > 500);
  CHECK(sum.cached > 10000);
  CHECK(sum.copies > 1000);
  CHECK(sum.poison_deaths > 1000);
  CHECK(sum.condemned > 500);
  CHECK(sum.large_steps > 500);
}

TEST_CASE("simulation: the same seed makes the same plans") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const outcome a = run(seed), b = run(seed);
    CHECK(a.fingerprint == b.fingerprint);
    CHECK(a.tokens == b.tokens);
  }
  CHECK(run(1).fingerprint != run(2).fingerprint);
}

// The harness must be able to fail: each planted fault is seen within a few seeds.
TEST_CASE("simulation: planted faults are found") {
  for (const fault planted :
       {fault::skip_copies, fault::forget_page, fault::wrong_position, fault::blame_staged}) {
    CAPTURE(static_cast<int>(planted));
    bool found = false;
    for (std::uint64_t seed = 1; seed <= 50 && !found; ++seed)
      found = !run(seed, planted).failure.empty();
    CHECK(found);
  }
}
