// SPDX-License-Identifier: Apache-2.0
#include "scheduler/scheduler.hpp"

#include <algorithm>
#include <numeric>

#include "doctest/doctest.h"
#include "tests/scheduler/sequences.hpp"

using namespace foretoken;
using namespace foretoken::scheduler;
using namespace foretoken::scheduler::testing;
using cache::cache_namespace;
using cache::kv_cache;
using cache::page_counts;

namespace {

constexpr sequence_id id(int n) {
  return sequence_id{static_cast<std::uint64_t>(n)};
}

}  // namespace

TEST_CASE("scheduler: one sequence goes through prompt, decode and end") {
  kv_cache books(16);
  batch_scheduler plans({}, books);
  CHECK(plans.idle());
  CHECK_FALSE(plans.plan().has_value());
  REQUIRE(plans.add(make(1, 20, 3)).has_value());
  CHECK_FALSE(plans.idle());
  auto batch = plans.plan();
  REQUIRE(batch.has_value());
  REQUIRE(batch->slices.size() == 1);
  CHECK(batch->slices[0].position == 0);
  CHECK(batch->slices[0].tokens.size() == 20);
  CHECK(batch->slices[0].pages.size() == 2);
  CHECK(batch->slices[0].sample_last);
  CHECK(batch->slices[0].prompt == nullptr);
  CHECK_FALSE(plans.plan().has_value());  // its next token is not known yet
  CHECK(plans.stats().in_flight == 1);
  auto news = plans.complete(answer(*batch));
  REQUIRE(news.size() == 1);
  CHECK(news[0].prompt_done);
  CHECK(news[0].next->id == 7000);
  for (int i = 1; i < 3; ++i) {
    batch = plans.plan();
    REQUIRE(batch.has_value());
    CHECK(batch->slices[0].position == 19 + i);
    CHECK(batch->slices[0].tokens == std::vector<token>{6999 + i});
    CHECK(batch->slices[0].generated_count == static_cast<std::uint64_t>(i));
    news = plans.complete(answer(*batch));
    CHECK_FALSE(news[0].prompt_done);
  }
  CHECK_FALSE(plans.plan().has_value());  // max_tokens reached: never planned beyond
  plans.end(id(1));
  CHECK(plans.idle());
  CHECK(books.counts() == page_counts{14, 2, 0});
  CHECK(plans.stats().prompt_tokens_computed == 20);
}

TEST_CASE("scheduler: bad sequences are refused by name") {
  kv_cache books(4);  // 64 positions
  options limits;
  limits.waiting_max = 2;
  batch_scheduler plans(limits, books);
  auto failed = plans.add(make(1, 65, 1));
  REQUIRE_FALSE(failed.has_value());
  CHECK(failed.error().code == errc::exhausted);
  CHECK(failed.error().field == "prompt");
  failed = plans.add(make(1, 60, 6));  // the last token needs no position: 60 + 5 = 65
  REQUIRE_FALSE(failed.has_value());
  CHECK(failed.error().field == "max_tokens");
  failed = plans.add(make(1, 1, 2147483647));
  REQUIRE_FALSE(failed.has_value());
  CHECK(failed.error().field == "max_tokens");
  auto empty = make(1, 1, 1);
  empty.prompt = std::make_shared<const std::vector<token>>();
  CHECK(plans.add(empty).error().field == "prompt");
  empty.prompt = nullptr;
  CHECK(plans.add(empty).error().field == "prompt");
  auto negative = make(1, 1, -1);
  CHECK(plans.add(negative).error().field == "max_tokens");
  CHECK(plans.add(make(1, 60, 5)).has_value());
  CHECK(plans.add(make(1, 1, 1)).error().field == "id");
  CHECK(plans.add(make(2, 1, 1)).has_value());
  CHECK(plans.add(make(3, 1, 1)).error().code == errc::exhausted);  // the queue is full
}

TEST_CASE("scheduler: prompts are chunked, and chunks may follow each other in flight") {
  kv_cache books(64);
  options limits;
  limits.step_tokens_max = 100;
  limits.prefill_chunk = 30;
  batch_scheduler plans(limits, books);
  REQUIRE(plans.add(make(1, 250, 5)).has_value());
  auto a = plans.plan(), b = plans.plan();
  REQUIRE(a.has_value());
  REQUIRE(b.has_value());
  CHECK(sizes(*a) == std::vector<int>{100});  // nothing decodes: a chunk fills the step
  CHECK(b->slices[0].position == 100);
  CHECK_FALSE(a->slices[0].sample_last);
  CHECK_FALSE(plans.plan().has_value());  // no credit
  CHECK(plans.complete(answer(*a)).empty());
  CHECK(books.peek(home, *make(1, 250, 1).prompt) == 96);  // whole pages of what is computed
  auto c = plans.plan();
  CHECK(sizes(*c) == std::vector<int>{50});
  CHECK(c->slices[0].sample_last);
  plans.complete(answer(*b));
  plans.complete(answer(*c));
  REQUIRE(plans.add(make(2, 200, 5, 5000)).has_value());
  auto d = plans.plan();
  CHECK(sizes(*d) == std::vector<int>{1, 30});  // a decode row first, then a bounded chunk
  auto e = plans.plan();
  CHECK(sizes(*e) == std::vector<int>{30});  // staged behind it: no decode row twice
  plans.complete(answer(*d));
  auto f = plans.plan();
  CHECK(sizes(*f) == std::vector<int>{1, 30});
}

TEST_CASE("scheduler: several prompts take turns") {
  kv_cache books(64);
  options limits;
  limits.step_tokens_max = 40;
  limits.credits = 1;
  batch_scheduler plans(limits, books);
  for (int i = 1; i <= 3; ++i) REQUIRE(plans.add(make(i, 60, 1, 1000 * i)).has_value());
  std::vector<sequence_id> first;
  for (int i = 0; i < 3; ++i) {
    auto batch = plans.plan();
    first.push_back(batch->slices[0].sequence);
    plans.complete(answer(*batch));
  }
  CHECK(first == std::vector<sequence_id>{id(1), id(2), id(3)});
}

TEST_CASE("scheduler: a cached prefix is reused and its partial page copied") {
  kv_cache books(16);
  batch_scheduler plans({}, books);
  REQUIRE(plans.add(make(1, 40, 1)).has_value());
  plans.complete(answer(*plans.plan()));
  plans.end(id(1));
  REQUIRE(plans.add(make(2, 50, 2)).has_value());
  auto batch = plans.plan();
  REQUIRE(batch.has_value());
  CHECK(plans.cached_tokens(id(2)) == 40);
  CHECK(batch->slices[0].position == 40);
  CHECK(batch->slices[0].tokens.size() == 10);
  REQUIRE(batch->copies.size() == 1);
  CHECK(batch->copies[0].positions == 8);
  CHECK(batch->copies[0].to == batch->slices[0].pages[2]);
  CHECK(batch->copies[0].from != batch->copies[0].to);
  CHECK(books.counts().used == 5);  // 4 of its own and shared, 1 source until the copy is made
  plans.complete(answer(*batch));
  CHECK(books.counts().used == 4);
  plans.end(id(2));
  // The same prompt again: all but its last token.
  REQUIRE(plans.add(make(3, 50, 1)).has_value());
  batch = plans.plan();
  CHECK(plans.cached_tokens(id(3)) == 49);
  CHECK(sizes(*batch) == std::vector<int>{1});
}

TEST_CASE("scheduler: sequences that share a prompt wait for the one that computes it") {
  kv_cache books(200);
  options limits;
  limits.sequences_max = 70;
  batch_scheduler plans(limits, books);
  for (int i = 1; i <= 64; ++i) {
    auto one = make(i, 1000, 1);
    auto tokens = *one.prompt;
    tokens.push_back(50000 + i);
    one.prompt = std::make_shared<const std::vector<token>>(std::move(tokens));
    REQUIRE(plans.add(one).has_value());
  }
  REQUIRE(plans.add(make(100, 10, 1, 90000)).has_value());  // unrelated, last in the queue
  auto batch = plans.plan();
  CHECK(plans.stats().running == 2);  // the first and the unrelated one
  CHECK(batch->slices.size() == 1);
  std::vector<model::micro_batch> flying{*batch};
  int finished = 0;
  while (finished < 65) {
    if (auto more = plans.plan()) flying.push_back(*more);
    REQUIRE_FALSE(flying.empty());
    const auto news = plans.complete(answer(flying.front()));
    flying.erase(flying.begin());
    for (const auto& each : news) {
      if (!each.next) continue;
      ++finished;
      plans.end(each.id);
    }
  }
  // 1001 once, 63 last tokens with what a page's tail leaves, 10 unrelated.
  CHECK(plans.stats().prompt_tokens_computed < 1001 + 63 * 16 + 10 + 1);
  CHECK(plans.stats().prompt_tokens_cached >= 63 * 992);
  CHECK(plans.idle());
  CHECK(books.counts().used == 0);
}

TEST_CASE("scheduler: the younger is preempted, the older goes on, both get all their tokens") {
  kv_cache books(5);
  options limits;
  limits.credits = 1;
  batch_scheduler plans(limits, books);
  REQUIRE(plans.add(make(1, 20, 40)).has_value());
  REQUIRE(plans.add(make(2, 20, 40, 500)).has_value());
  std::vector<int> tokens{0, 0};
  std::vector<int> ended;
  while (!plans.idle()) {
    auto batch = plans.plan();
    REQUIRE(batch.has_value());
    for (const auto& each : plans.complete(answer(*batch))) {
      if (!each.next) continue;
      const auto i = static_cast<std::size_t>(each.id) - 1;
      CHECK(each.next->id == 7000 + tokens[i]);
      if (++tokens[i] == 40) {
        plans.end(each.id);
        ended.push_back(static_cast<int>(i) + 1);
      }
    }
  }
  CHECK(ended == std::vector<int>{1, 2});
  CHECK(plans.stats().preemptions >= 1);
  CHECK(books.counts().used == 0);
}

TEST_CASE("scheduler: ending in flight releases when the step completes") {
  kv_cache books(16);
  batch_scheduler plans({}, books);
  REQUIRE(plans.add(make(1, 20, 3)).has_value());
  REQUIRE(plans.add(make(2, 20, 3, 500)).has_value());
  auto batch = plans.plan();
  plans.end(id(1));
  plans.end(id(1));
  plans.end(id(77));
  CHECK(books.counts().used == 4);
  const auto news = plans.complete(answer(*batch));
  REQUIRE(news.size() == 1);
  CHECK(news[0].id == id(2));
  CHECK(books.counts().used == 2);
  CHECK(books.peek(home, *make(1, 20, 1).prompt) == 20);  // the work is kept
  plans.end(id(2));
  CHECK(plans.idle());
}

TEST_CASE("scheduler: a lost device means recomputing, not losing tokens") {
  kv_cache books(16);
  batch_scheduler plans({}, books);
  REQUIRE(plans.add(make(1, 20, 5)).has_value());
  plans.complete(answer(*plans.plan()));
  plans.complete(answer(*plans.plan()));
  auto lost = plans.plan();
  REQUIRE(lost.has_value());
  plans.device_lost(true);
  CHECK(plans.stats().in_flight == 0);
  CHECK(books.counts() == page_counts{16, 0, 0});
  CHECK(plans.stats().recovered == 1);
  auto again = plans.plan();
  REQUIRE(again.has_value());
  CHECK(again->slices[0].position == 0);
  CHECK(again->slices[0].tokens.size() == 22);
  CHECK(again->slices[0].generated_count == 2);
  const auto news = plans.complete(answer(*again));
  REQUIRE(news.size() == 1);
  CHECK_FALSE(news[0].prompt_done);
  CHECK(news[0].next->id == 7002);
}

TEST_CASE(
    "scheduler: suspects of a death run alone, in turn with the others, until they are past it") {
  kv_cache books(64);
  batch_scheduler plans({}, books);
  for (int i = 1; i <= 2; ++i) REQUIRE(plans.add(make(i, 20, 9, 1000 * i)).has_value());
  plans.complete(answer(*plans.plan()));
  auto ran = plans.plan();
  REQUIRE(plans.add(make(3, 20, 9, 3000)).has_value());
  REQUIRE(plans.plan().has_value());  // staged
  const auto suspects = plans.device_lost();
  REQUIRE(suspects.size() == 2);
  for (const auto& each : suspects) {
    CHECK(each.deaths == 1);
    CHECK_FALSE(each.alone);
  }
  std::vector<std::vector<sequence_id>> steps;
  for (int i = 0; i < 4; ++i) {
    const auto batch = plans.plan();
    REQUIRE(batch.has_value());
    auto& ids = steps.emplace_back();
    for (const auto& part : batch->slices) ids.push_back(part.sequence);
    plans.complete(answer(*batch));
  }
  CHECK(steps[0] == std::vector{id(3)});  // the staged one is nobody's suspect
  CHECK(steps[1] == std::vector{id(1)});
  CHECK(steps[2] == std::vector{id(1), id(3)});  // past the point: with the others again
  CHECK(steps[3] == std::vector{id(2)});
  const auto batch = plans.plan();
  REQUIRE(batch.has_value());
  CHECK(batch->slices.size() == 3);
}

TEST_CASE(
    "scheduler: a suspect stays one until it is past the chunk that died, whatever came before") {
  kv_cache books(64);
  options limits;
  limits.step_tokens_max = 16;
  limits.credits = 1;
  batch_scheduler plans(limits, books);
  REQUIRE(plans.add(make(1, 60, 2)).has_value());
  for (int death = 1; death <= 3; ++death) {
    for (int chunk = 0; chunk < 2; ++chunk) plans.complete(answer(*plans.plan()));
    REQUIRE(plans.plan()->slices[0].position == 32);
    const auto suspects = plans.device_lost();
    REQUIRE(suspects.size() == 1);
    CHECK(suspects[0].alone);
    CHECK(suspects[0].deaths == death);
  }
  for (int chunk = 0; chunk < 3; ++chunk) plans.complete(answer(*plans.plan()));
  REQUIRE(plans.plan().has_value());
  CHECK(plans.device_lost()[0].deaths == 1);  // it came further: a new count
}

TEST_CASE("scheduler: every prompt token but the first is scored once, also across a lost device") {
  kv_cache books(16);
  options limits;
  limits.step_tokens_max = 16;
  batch_scheduler plans(limits, books);
  REQUIRE(plans.add(make(1, 50, 1)).has_value());  // fills the cache: scoring must not use it
  while (plans.stats().prompt_tokens_computed < 50) plans.complete(answer(*plans.plan()));
  plans.end(id(1));
  for (const int max_tokens : {0, 2}) {
    CAPTURE(max_tokens);
    auto scored = make(2 + max_tokens, 50, max_tokens);
    scored.score_prompt = true;
    const sequence_id own = scored.id;
    REQUIRE(plans.add(scored).has_value());
    std::vector<token> seen;
    int tokens = 0, dones = 0;
    for (int step = 0; step < 50; ++step) {
      if (step == 2) plans.device_lost(true);
      auto batch = plans.plan();
      if (!batch) break;
      for (const auto& part : batch->slices) {
        CHECK(part.sample_last ==
              (part.position + static_cast<int>(part.tokens.size()) >= 50 && max_tokens > 0));
      }
      for (const auto& each : plans.complete(answer(*batch))) {
        for (const auto& s : each.scores) seen.push_back(s.id);
        tokens += each.next ? 1 : 0;
        dones += each.prompt_done ? 1 : 0;
      }
    }
    std::vector<token> expected(49);
    std::iota(expected.begin(), expected.end(), 1);
    CHECK(seen == expected);
    CHECK(tokens == max_tokens);
    CHECK(dones == 1);
    CHECK(plans.cached_tokens(own) == 0);
    plans.end(own);
  }
  CHECK(plans.idle());
}

TEST_CASE("scheduler: histories travel only when penalties need them") {
  kv_cache books(16);
  batch_scheduler plans({}, books);
  auto one = make(1, 5, 3);
  auto sampling = std::make_shared<model::sampling_parameters>();
  sampling->presence_penalty = 0.5f;
  one.sampling = sampling;
  REQUIRE(plans.add(one).has_value());
  plans.complete(answer(*plans.plan()));
  const auto batch = plans.plan();
  REQUIRE(batch.has_value());
  REQUIRE(batch->slices[0].prompt != nullptr);
  CHECK(batch->slices[0].prompt->size() == 5);
  CHECK(batch->slices[0].generated == std::vector<token>{7000});
}

TEST_CASE("scheduler: a sample without a token stops the sequence and waits for its end") {
  kv_cache books(16);
  batch_scheduler plans({}, books);
  REQUIRE(plans.add(make(1, 5, 3)).has_value());
  auto batch = plans.plan();
  auto result = answer(*batch);
  result.slices[0].next = {};
  result.slices[0].next.non_finite = true;
  const auto news = plans.complete(result);
  REQUIRE(news.size() == 1);
  CHECK(news[0].next->non_finite);
  CHECK_FALSE(plans.plan().has_value());
  CHECK_FALSE(plans.idle());
  plans.end(id(1));
  CHECK(plans.idle());
}

TEST_CASE("scheduler: a preempted sequence that finds all but one token cached decodes at once") {
  kv_cache books(16);
  options limits;
  limits.sequences_max = 1;
  batch_scheduler plans(limits, books);
  REQUIRE(plans.add(make(1, 20, 9)).has_value());
  plans.complete(answer(*plans.plan()));
  plans.complete(answer(*plans.plan()));
  plans.device_lost(true);
  // Another one computes the same beginning and leaves it in the cache while the first waits.
  const auto pages = *books.allocate(2);
  std::vector<token> tokens = *make(1, 20, 1).prompt;
  tokens.push_back(7000);
  books.publish(home, tokens, pages);
  books.release(pages);
  const auto batch = plans.plan();
  REQUIRE(batch.has_value());
  CHECK(batch->slices[0].position == 21);
  CHECK(sizes(*batch) == std::vector<int>{1});
  CHECK(batch->copies.size() == 1);
}

TEST_CASE("scheduler: more decoding sequences than rows take turns") {
  kv_cache books(64);
  options limits;
  limits.step_tokens_max = 4;
  limits.credits = 1;
  batch_scheduler plans(limits, books);
  for (int i = 1; i <= 8; ++i) REQUIRE(plans.add(make(i, 1, 20, 100 * i)).has_value());
  std::vector<int> tokens(8, 0);
  for (int step = 0; step < 40; ++step) {
    auto batch = plans.plan();
    REQUIRE(batch.has_value());
    CHECK(batch->slices.size() <= 4);
    for (const auto& each : plans.complete(answer(*batch)))
      ++tokens[static_cast<std::size_t>(each.id) - 1];
  }
  const auto [low, high] = std::minmax_element(tokens.begin(), tokens.end());
  CHECK(*low >= 10);
  CHECK(*high <= 20);
}
