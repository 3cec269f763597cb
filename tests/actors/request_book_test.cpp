// SPDX-License-Identifier: Apache-2.0
#include "actors/request_book.hpp"

#include <deque>

#include <doctest/doctest.h>

#include "fake_model.hpp"
#include "model/forward.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

// The batcher's plain objects and a fake device, driven step by step.
struct bench {
  explicit bench(int pages = 64,
                 std::vector<testing::poison> poisons_ = {},
                 scheduler::options chosen = {},
                 int crashes_max = 3)
      : books(std::vector<int>{pages}),
        plans(chosen, books),
        book(plans, testing::fake_words(), metrics, {.crashes_max = crashes_max}),
        poisons(std::move(poisons_)) {
    new_device();
  }

  void new_device() {
    device = std::make_unique<testing::fake_device>(books.of(0).pages(), nullptr, poisons);
  }

  request_id add(const std::string& prompt, generate_request request) {
    accepted_request accepted;
    accepted.id = request_id{++last};
    accepted.prompt =
        std::make_shared<const std::vector<token>>(testing::fake_words()->encode(prompt));
    accepted.max_tokens = static_cast<int>(request.max_tokens);
    request.prompt = prompt;
    accepted.request = std::make_shared<const generate_request>(std::move(request));
    accepted.sink = sink;
    accepted.ending = {accepted.id, sink, shared_metrics};
    metrics.requests_open.add(1);
    book.add(std::move(accepted), {});
    book.deliver();
    return request_id{last};
  }
  bool step() {
    const auto batch = book.plan(0, {});
    if (!batch) return false;
    const auto done = model::forward(*device, *batch);
    REQUIRE(done);
    book.complete(0, *done, {});
    book.deliver();
    return true;
  }
  // As an executor with two credits: runs micro-batches in order; a death voids the staged one too.
  void run_with_deaths() {
    std::deque<model::micro_batch> flying;
    for (int i = 0; i < 20000; ++i) {
      while (auto batch = book.plan(0, {})) flying.push_back(std::move(*batch));
      if (flying.empty()) return;
      if (auto done = model::forward(*device, flying.front())) {
        flying.pop_front();
        book.complete(0, *done, {});
      } else {
        ++deaths;
        flying.clear();
        new_device();
        book.executor_lost(0, {});
      }
      book.deliver();
    }
    FAIL("the requests do not end");
  }
  void run() {
    for (int i = 0; i < 10000 && step(); ++i) {
    }
  }

  std::shared_ptr<counters> shared_metrics = std::make_shared<counters>();
  counters& metrics = *shared_metrics;
  cache::pools books;
  scheduler::device_plans plans;
  std::shared_ptr<testing::recorder> sink = std::make_shared<testing::recorder>();
  request_book book;
  std::vector<testing::poison> poisons;
  std::unique_ptr<testing::fake_device> device;
  std::uint64_t last = 0;
  int deaths = 0;
};

generate_request tokens(int count) {
  generate_request request;
  request.max_tokens = count;
  return request;
}

// The code of the error that ended a request; nothing when it ended well or not at all.
std::optional<errc> failure_of(const bench& b, request_id id) {
  for (const auto& one : b.sink->events()) {
    if (one.request != id) continue;
    if (const auto* failed = std::get_if<error_event>(&one.what)) return failed->failure.code;
  }
  return std::nullopt;
}

// Innocent streams with prompts of many lengths, some behind one shared beginning.
struct innocents {
  void add(bench& b, int count, int tokens_each) {
    for (int i = 0; i < count; ++i) {
      auto prompt = "innocent " + std::string(static_cast<std::size_t>(7 * i), 'x');
      prompt += static_cast<char>('a' + i);
      all.emplace_back(b.add(prompt, tokens(tokens_each)),
                       testing::expected_text(prompt, tokens_each));
    }
  }
  void check(const bench& b) const {
    for (const auto& [id, text] : all) {
      CHECK(b.sink->text(id) == text);
      CHECK_FALSE(failure_of(b, id).has_value());
    }
  }
  std::vector<std::pair<request_id, std::string>> all;
};

}  // namespace

TEST_CASE("request_book: a request ends with its text and one terminal event") {
  bench b;
  const auto id = b.add("hello", tokens(20));
  b.run();
  CHECK(b.sink->terminal() == 1);
  CHECK(b.sink->text(id) == testing::expected_text("hello", 20));
  const auto last = b.sink->events().back();
  REQUIRE(std::holds_alternative<done_event>(last.what));
  const auto& done = std::get<done_event>(last.what);
  CHECK(done.reasons == std::vector{finish_reason::length});
  CHECK(done.usage.prompt_tokens == 5);
  CHECK(done.usage.completion_tokens == 20);
  CHECK(b.metrics.requests_open.value() == 0);
  CHECK(b.books.counts().used == 0);
}

TEST_CASE(
    "request_book: three requests in a row without finite logits are counted, a token starts "
    "over") {
  bench b;
  const auto in_a_row = [&] { return b.metrics.non_finite_in_a_row.value(); };
  for (int i = 1; i <= 3; ++i) {
    b.add("poison", tokens(10));
    const auto batch = b.book.plan(0, {});
    REQUIRE(batch);
    model::step_result done;
    done.step = batch->step;
    done.slices.resize(1);
    done.slices[0].sequence = batch->slices[0].sequence;
    done.slices[0].next.non_finite = true;
    b.book.complete(0, done, {});
    b.book.deliver();
    CHECK(b.sink->terminal() == i);
    const auto last = b.sink->events().back();
    REQUIRE(std::holds_alternative<error_event>(last.what));
    CHECK(std::get<error_event>(last.what).failure.field == "model");
    CHECK(in_a_row() == i);
  }
  b.add("hello", tokens(2));
  b.run();
  CHECK(in_a_row() == 0);
}

TEST_CASE("request_book: many requests in one batch say what each says alone") {
  bench b;
  std::vector<std::pair<request_id, std::string>> all;
  for (int i = 0; i < 30; ++i) {
    const auto prompt = "prompt number " + std::to_string(i);
    all.emplace_back(b.add(prompt, tokens(5 + i)), testing::expected_text(prompt, 5 + i));
  }
  b.run();
  for (const auto& [id, text] : all) CHECK(b.sink->text(id) == text);
  CHECK(b.sink->terminal() == 30);
}

TEST_CASE("request_book: a stop string ends the choice with reason stop") {
  bench b;
  const auto full = testing::expected_text("q", 30);
  auto request = tokens(30);
  request.stop = {full.substr(10, 3)};
  const auto id = b.add("q", request);
  b.run();
  CHECK(b.sink->text(id) == full.substr(0, full.find(request.stop[0])));
  CHECK(std::get<done_event>(b.sink->events().back().what).reasons[0] == finish_reason::stop);
}

TEST_CASE("request_book: cancelling ends with cancelled and frees the pages") {
  bench b;
  const auto id = b.add("hello", tokens(400));
  for (int i = 0; i < 5; ++i) b.step();
  b.book.cancel(id, {});
  b.book.deliver();
  CHECK(b.sink->terminal() == 1);
  CHECK(std::get<done_event>(b.sink->events().back().what).reasons[0] == finish_reason::cancelled);
  b.run();
  CHECK(b.books.counts().used == 0);
  b.book.cancel(id, {});  // an ended id is ignored
  b.book.deliver();
  CHECK(b.sink->terminal() == 1);
}

TEST_CASE("request_book: echo with logprobs covers the prompt") {
  bench b;
  auto request = tokens(0);
  request.echo = true;
  request.sampling.logprobs = 1;
  const auto id = b.add("abc", request);
  b.run();
  CHECK(b.sink->text(id) == "abc");
  std::vector<token_logprob> entries;
  for (const auto& one : b.sink->events()) {
    if (const auto* piece = std::get_if<token_event>(&one.what)) {
      entries.insert(entries.end(), piece->logprobs.begin(), piece->logprobs.end());
    }
  }
  REQUIRE(entries.size() == 3);
  CHECK_FALSE(entries[0].logprob.has_value());
  CHECK(entries[1].logprob.value() == doctest::Approx(-2));
  CHECK(entries[2].text_offset == 2);
}

TEST_CASE("request_book: an executor lost at any step changes no byte") {
  for (int at = 0; at < 12; ++at) {
    CAPTURE(at);
    bench b;
    const auto one = b.add("first prompt", tokens(10));
    const auto two = b.add("second prompt", tokens(10));
    for (int i = 0; i < at; ++i) b.step();
    const auto lost = b.book.plan(0, {});
    b.device = std::make_unique<testing::fake_device>(64, nullptr);
    b.book.executor_lost(0, {});
    b.book.deliver();
    b.run();
    CHECK(b.sink->text(one) == testing::expected_text("first prompt", 10));
    CHECK(b.sink->text(two) == testing::expected_text("second prompt", 10));
    CHECK(b.sink->terminal() == 2);
  }
}

TEST_CASE("request_book: a request that kills the executor every time fails alone") {
  bench b;
  b.add("poison", tokens(10));
  for (int i = 0; i < 3; ++i) {
    REQUIRE(b.book.plan(0, {}));
    b.book.executor_lost(0, {});
  }
  b.book.deliver();
  CHECK(b.sink->terminal() == 1);
  CHECK(std::holds_alternative<error_event>(b.sink->events().back().what));
  CHECK_FALSE(b.book.plan(0, {}));
}

TEST_CASE("request_book: innocents beside a poison lose nothing, and the poison fails") {
  for (const int position : {0, 5, 11, 12, 20, 100, 139}) {  // prompt of 12, 140 positions in all
    for (const int crashes_max : {1, 2, 3, 5}) {
      CAPTURE(position);
      CAPTURE(crashes_max);
      bench b(512, {{'!', position}}, {}, crashes_max);
      innocents others;
      others.add(b, 4, 150);
      const auto poison = b.add("!poison here", tokens(129));
      others.add(b, 4, 150);
      b.run_with_deaths();
      others.check(b);
      CHECK(failure_of(b, poison) == errc::device);
      CHECK(b.sink->terminal() == 9);
      // A first death among others only makes suspects.
      CHECK(b.deaths == std::max(crashes_max, 2));
      CHECK(b.books.counts().used == 0);
    }
  }
}

TEST_CASE("request_book: two poisons fail, each by its own deaths") {
  for (const int second : {0, 8, 30, 31, 60}) {
    CAPTURE(second);
    bench b(512, {{'!', 30}, {'?', second}});
    innocents others;
    others.add(b, 4, 100);
    const auto one = b.add("!poison", tokens(80));
    const auto two = b.add("?another", tokens(80));
    others.add(b, 4, 100);
    b.run_with_deaths();
    others.check(b);
    CHECK(failure_of(b, one) == errc::device);
    CHECK(failure_of(b, two) == errc::device);
    CHECK(b.deaths <= 6);
  }
}

TEST_CASE("request_book: a staged micro-batch that never ran is not to blame") {
  bench b;
  const auto one = b.add("first", tokens(5));
  REQUIRE(b.book.plan(0, {}));
  const auto two = b.add("second", tokens(5));
  for (int death = 0; death < 10; ++death) {
    CAPTURE(death);
    while (b.book.plan(0, {})) {
    }
    b.book.executor_lost(0, {});
    b.book.deliver();
    if (b.sink->terminal() == 0) continue;
    CHECK(failure_of(b, one) == errc::device);
    break;
  }
  CHECK(b.sink->terminal() == 1);
  b.new_device();
  b.run();
  CHECK(b.sink->text(two) == testing::expected_text("second", 5));
}

TEST_CASE("request_book: a poison deep in a long prompt fails; a long prompt beside it does not") {
  scheduler::options small;
  small.step_tokens_max = 32;
  small.prefill_chunk = 16;
  for (const int position : {0, 100, 290}) {
    CAPTURE(position);
    bench b(512, {{'!', position}}, small);
    innocents others;
    others.add(b, 3, 40);
    const auto poison = b.add("!" + std::string(299, 'p'), tokens(10));
    const auto prompt = std::string(300, 'q');
    const auto beside = b.add(prompt, tokens(10));
    b.run_with_deaths();
    others.check(b);
    CHECK(b.sink->text(beside) == testing::expected_text(prompt, 10));
    CHECK(failure_of(b, poison) == errc::device);
    CHECK(b.deaths == 3);
  }
}

TEST_CASE("request_book: deaths without a cause fail nobody who comes further between them") {
  bench b(512);
  innocents others;
  others.add(b, 8, 60);
  for (int round = 0; round < 30; ++round) {
    const auto ran = b.book.plan(0, {});
    if (!ran) break;
    b.book.executor_lost(0, {});
    b.new_device();
    for (int i = 0; i < 40; ++i) b.step();  // every suspect gets past its point
  }
  b.run();
  others.check(b);
}

TEST_CASE("request_book: a pool too small for all preempts and loses nothing") {
  bench b(8);
  std::vector<std::pair<request_id, std::string>> all;
  for (int i = 0; i < 6; ++i) {
    const auto prompt = std::string(static_cast<std::size_t>(10 + i), static_cast<char>('a' + i));
    all.emplace_back(b.add(prompt, tokens(40)), testing::expected_text(prompt, 40));
  }
  b.run();
  for (const auto& [id, text] : all) CHECK(b.sink->text(id) == text);
  CHECK(b.plans.stats().preemptions > 0);
  CHECK(b.books.counts().used == 0);
}

TEST_CASE("request_book: requests still open end with an error when the book goes") {
  auto sink = std::make_shared<testing::recorder>();
  {
    bench b;
    b.add("hello", tokens(10));
    sink = b.sink;
  }
  CHECK(sink->terminal() == 1);
}
