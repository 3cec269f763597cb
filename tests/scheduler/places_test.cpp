// SPDX-License-Identifier: Apache-2.0
// Micro-batches beside each other and the places they take.
#include "doctest/doctest.h"
#include "tests/scheduler/sequences.hpp"

using namespace foretoken;
using namespace foretoken::scheduler;
using namespace foretoken::scheduler::testing;
using cache::kv_cache;

TEST_CASE("scheduler: beside each other only place 0 takes many rows, and few rows leave it free") {
  kv_cache books(64);
  options chosen;
  chosen.step_tokens_max = 60;
  chosen.beside_rows_max = 20;
  batch_scheduler plans(chosen, books);
  plans.set_flights(3);
  const auto add = [&](int number, int prompt) {
    REQUIRE(plans.add(make(number, prompt, 1, 1000 * number)).has_value());
    return plans.plan();
  };
  const auto few = add(1, 20);
  REQUIRE(few);
  CHECK(few->place == 1);
  const auto many = add(2, 21);
  REQUIRE(many);
  CHECK(many->place == 0);
  const auto cut = add(3, 50);  // place 0 is taken
  REQUIRE(cut);
  CHECK(cut->place == 2);
  CHECK(sizes(*cut) == std::vector<int>{20});
  CHECK_FALSE(plans.plan());
  plans.complete(answer(*cut));
  plans.complete(answer(*many));
  const auto rest = plans.plan();
  REQUIRE(rest);
  CHECK(rest->place == 0);
  CHECK(sizes(*rest) == std::vector<int>{30});
  const auto third = add(4, 5);
  REQUIRE(third);
  CHECK(third->place == 2);
  plans.complete(answer(*few));
  plans.complete(answer(*rest));
  plans.complete(answer(*third));
  const auto small = add(5, 5), second = add(6, 5), last = add(7, 5);
  REQUIRE(last);
  CHECK(small->place == 1);
  CHECK(second->place == 2);
  CHECK(last->place == 0);  // no other is free
}

TEST_CASE("scheduler: beside each other, decoding sequences beyond a small place take turns") {
  kv_cache books(64);
  options chosen;
  chosen.step_tokens_max = 60;
  chosen.beside_rows_max = 4;
  batch_scheduler plans(chosen, books);
  plans.set_flights(2);
  for (int i = 0; i < 6; ++i) REQUIRE(plans.add(make(i, 3, 8, 1000 * i)).has_value());
  plans.complete(answer(*plans.plan()));
  REQUIRE(plans.add(make(9, 40, 1, 9000)).has_value());
  // Six rows need place 0; the prompt stays at few rows meanwhile.
  const auto decodes = plans.plan();
  REQUIRE(decodes);
  CHECK(decodes->place == 0);
  CHECK(decodes->slices.size() == 6);
  const auto chunk = plans.plan();
  REQUIRE(chunk);
  CHECK(chunk->place == 1);
  CHECK(sizes(*chunk) == std::vector<int>{4});
  plans.complete(answer(*decodes));
  plans.complete(answer(*chunk));
  const auto rest = plans.plan();  // its turn
  REQUIRE(rest);
  CHECK(rest->place == 0);
  CHECK(sizes(*rest) == std::vector<int>{36});
  const auto few = plans.plan();
  REQUIRE(few);
  CHECK(few->place == 1);
  CHECK(few->slices.size() == 4);
  plans.complete(answer(*few));
  plans.complete(answer(*rest));
  CHECK(plans.plan()->place == 0);  // all decode rows again
}

TEST_CASE("scheduler: beside each other, a prompt is not kept at few rows by decode rows") {
  kv_cache books(64);
  options chosen;
  chosen.step_tokens_max = chosen.prefill_chunk = 60;
  chosen.beside_rows_max = 4;
  batch_scheduler plans(chosen, books);
  plans.set_flights(2);
  REQUIRE(plans.add(make(0, 3, 40)).has_value());
  plans.complete(answer(*plans.plan()));
  REQUIRE(plans.add(make(1, 4, 1, 1000)).has_value());
  const auto decode = plans.plan();
  const auto small = plans.plan();
  REQUIRE(small);
  CHECK(small->place == 0);  // the other is taken
  plans.complete(answer(*decode));
  const auto next = plans.plan();
  REQUIRE(next);
  REQUIRE(plans.add(make(2, 59, 1, 2000)).has_value());
  plans.complete(answer(*small));
  int steps = 0;
  for (int rows = 0; rows < 59; ++steps) {
    const auto chunk = plans.plan();
    REQUIRE(chunk);
    rows += model::rows_of(*chunk);
    CHECK(chunk->place == 0);
    plans.complete(answer(*chunk));
  }
  CHECK(steps == 1);
  plans.complete(answer(*next));
}
