// SPDX-License-Identifier: Apache-2.0
#include "actors/request_book.hpp"

#include <doctest/doctest.h>

#include "fake_model.hpp"
#include "model/forward.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

// The batcher's plain objects and a fake device, driven step by step.
struct bench {
  explicit bench(int pages = 64)
      : books(pages),
        plans({}, books),
        book(plans, testing::fake_words(), metrics, {.crashes_max = 3}),
        device(std::make_unique<testing::fake_device>(pages, nullptr)) {}

  request_id add(const std::string& prompt, generate_request request) {
    accepted_request accepted;
    accepted.id = request_id{++last};
    accepted.prompt =
        std::make_shared<const std::vector<token>>(testing::fake_words()->encode(prompt));
    accepted.max_tokens = static_cast<int>(request.max_tokens);
    request.prompt = prompt;
    accepted.request = std::make_shared<const generate_request>(std::move(request));
    accepted.sink = sink;
    metrics.requests_open.add(1);
    book.add(std::move(accepted), {});
    book.deliver();
    return request_id{last};
  }
  bool step() {
    const auto batch = book.plan({});
    if (!batch) return false;
    const auto done = model::forward(*device, *batch);
    REQUIRE(done);
    book.complete(*done, {});
    book.deliver();
    return true;
  }
  void run() {
    for (int i = 0; i < 10000 && step(); ++i) {
    }
  }

  counters metrics;
  cache::kv_cache books;
  scheduler::batch_scheduler plans;
  std::shared_ptr<testing::recorder> sink = std::make_shared<testing::recorder>();
  request_book book;
  std::unique_ptr<testing::fake_device> device;
  std::uint64_t last = 0;
};

generate_request tokens(int count) {
  generate_request request;
  request.max_tokens = count;
  return request;
}

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
    const auto lost = b.book.plan({});
    b.device = std::make_unique<testing::fake_device>(64, nullptr);
    b.book.executor_lost({});
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
    REQUIRE(b.book.plan({}));
    b.book.executor_lost({});
  }
  b.book.deliver();
  CHECK(b.sink->terminal() == 1);
  CHECK(std::holds_alternative<error_event>(b.sink->events().back().what));
  CHECK_FALSE(b.book.plan({}));
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
