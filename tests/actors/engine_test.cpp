// SPDX-License-Identifier: Apache-2.0
#include "actors/engine.hpp"

#include <ctime>
#include <limits>
#include <map>
#include <random>
#include <set>

#include <doctest/doctest.h>

#include "actors/handles.hpp"
#include "actors/restart_policy.hpp"
#include "fake_model.hpp"

using namespace foretoken;
using namespace foretoken::actors;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<engine> start_fake(options chosen = {}, int pages = 64) {
  auto started = actors::start(std::move(chosen), testing::fake_model(pages), nullptr);
  REQUIRE(started);
  return std::move(started).value();
}

generate_request ask(std::string prompt, int tokens) {
  generate_request request;
  request.prompt = std::move(prompt);
  request.max_tokens = tokens;
  return request;
}

}  // namespace

TEST_CASE("engine: streams a request's text to its sink") {
  auto running = start_fake();
  auto sink = std::make_shared<testing::recorder>();
  const auto id = running->submit(ask("hello", 30), sink);
  REQUIRE(id);
  REQUIRE(sink->wait(1));
  CHECK(sink->text(*id) == testing::expected_text("hello", 30));
  CHECK(running->stats().requests == 0);
  CHECK(running->ready());
}

TEST_CASE("engine: a long text goes through the tokenizer actor and says the same") {
  options chosen;
  chosen.inline_tokenize_bytes = 4;
  auto running = start_fake(chosen);
  auto sink = std::make_shared<testing::recorder>();
  const auto id = running->submit(ask("hello there", 30), sink);
  REQUIRE(id);
  REQUIRE(sink->wait(1));
  CHECK(sink->text(*id) == testing::expected_text("hello there", 30));
}

TEST_CASE("engine: a prompt that extends an earlier one reuses its pages") {
  auto running = start_fake();
  auto sink = std::make_shared<testing::recorder>();
  const std::string first(100, 'x');
  REQUIRE(running->submit(ask(first, 4), sink));
  REQUIRE(sink->wait(1));
  const auto id = running->submit(ask(first + "yz", 4), sink);
  REQUIRE(id);
  REQUIRE(sink->wait(2));
  const auto last = sink->events().back();
  REQUIRE(std::holds_alternative<done_event>(last.what));
  CHECK(std::get<done_event>(last.what).usage.cached_tokens >= 100);
  CHECK(sink->text(*id) == testing::expected_text(first + "yz", 4));
}

TEST_CASE("engine: another cache_salt shares nothing") {
  auto running = start_fake();
  auto sink = std::make_shared<testing::recorder>();
  auto request = ask(std::string(100, 'x'), 4);
  REQUIRE(running->submit(request, sink));
  REQUIRE(sink->wait(1));
  request.cache_salt = "tenant";
  REQUIRE(running->submit(request, sink));
  REQUIRE(sink->wait(2));
  CHECK(std::get<done_event>(sink->events().back().what).usage.cached_tokens == 0);
}

TEST_CASE("engine: bad parameters are refused by name") {
  auto running = start_fake();
  auto sink = std::make_shared<testing::recorder>();
  struct row {
    const char* field;
    std::function<void(generate_request&)> spoil;
  };
  const std::vector<row> rows{
      {"max_tokens", [](auto& r) { r.max_tokens = 0; }},
      {"max_tokens", [](auto& r) { r.max_tokens = -1; }},
      {"n", [](auto& r) { r.n = 0; }},
      {"n", [](auto& r) { r.n = 1000; }},
      {"temperature", [](auto& r) { r.sampling.temperature = -1; }},
      {"temperature",
       [](auto& r) { r.sampling.temperature = std::numeric_limits<float>::quiet_NaN(); }},
      {"top_p", [](auto& r) { r.sampling.top_p = 0; }},
      {"top_k", [](auto& r) { r.sampling.top_k = -1; }},
      {"min_p", [](auto& r) { r.sampling.min_p = 2; }},
      {"presence_penalty", [](auto& r) { r.sampling.presence_penalty = 3; }},
      {"repetition_penalty", [](auto& r) { r.sampling.repetition_penalty = 0; }},
      {"repetition_penalty", [](auto& r) { r.sampling.repetition_penalty = 10.5f; }},
      {"logprobs", [](auto& r) { r.sampling.logprobs = 100; }},
      {"logit_bias",
       [](auto& r) {
         r.sampling.logit_bias = {{100000, 1.0f}};
       }},
      {"stop", [](auto& r) { r.stop = {""}; }},
      {"cache_salt", [](auto& r) { r.cache_salt = "two words"; }},
      {"cache_salt", [](auto& r) { r.cache_salt = "\x01"; }},
      {"cache_salt", [](auto& r) { r.cache_salt = std::string(65, 'a'); }},
      {"prompt", [](auto& r) { r.prompt = std::string(); }},
      {"prompt", [](auto& r) { r.prompt = token_prompt{-1}; }},
      {"prompt", [](auto& r) { r.prompt = token_prompt(600, 'a'); }},
      {"messages",
       [](auto& r) {
         r.prompt = chat_prompt{{"user", "hi"}};
       }},
  };
  for (const auto& [field, spoil] : rows) {
    CAPTURE(field);
    auto request = ask("hello", 4);
    spoil(request);
    const auto refused = running->submit(request, sink);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().field == field);
  }
  CHECK(running->stats().requests == 0);
}

TEST_CASE("engine: more requests than the bound are refused as exhausted") {
  options chosen;
  chosen.requests_max = 2;
  auto running = start_fake(chosen);
  auto sink = std::make_shared<testing::recorder>();
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    const auto id = running->submit(ask("hello", 400), sink);
    if (!id) {
      CHECK(id.error().code == errc::exhausted);
      ++refused;
    }
  }
  CHECK(refused > 0);
  REQUIRE(sink->wait(200 - refused));
}

TEST_CASE("engine: executors killed in mid-stream change no byte") {
  options chosen;
  chosen.restart_backoff = 1ms;
  chosen.restart_backoff_max = 1ms;
  auto running = start_fake(chosen, 512);
  auto sink = std::make_shared<testing::recorder>();
  std::vector<std::pair<request_id, std::string>> all;
  for (int i = 0; i < 8; ++i) {
    const auto prompt = "stream " + std::to_string(i);
    all.emplace_back(*running->submit(ask(prompt, 400), sink), testing::expected_text(prompt, 400));
  }
  for (int i = 0; i < 20; ++i) {
    caf::anon_send(handles_of(*running).supervisor, restart_executor{});
    std::this_thread::sleep_for(3ms);  // spreads the kills over the streams; nothing depends on it
  }
  REQUIRE(sink->wait(8));
  for (const auto& [id, text] : all) CHECK(sink->text(id) == text);
}

TEST_CASE("engine: steps beside each other say the same, whichever ends first and whoever dies") {
  for (const int flights : {2, 4}) {
    CAPTURE(flights);
    options chosen;
    chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
    chosen.scheduler.beside_rows_max = 40;
    const auto prepared = testing::fake_model_beside(flights, 512, nullptr, {}, 40);
    auto running = actors::start(chosen, prepared, nullptr);
    REQUIRE(running);
    auto sink = std::make_shared<testing::recorder>();
    std::mt19937 random(9);
    std::vector<std::pair<request_id, std::string>> all;
    for (int i = 0; i < 60; ++i) {
      const std::string prompt = std::string(random() % 200, 'p') + "stream " + std::to_string(i);
      const int tokens = 1 + static_cast<int>(random() % 150);
      all.emplace_back(*(*running)->submit(ask(prompt, tokens), sink),
                       testing::expected_text(prompt, tokens));
      if (i % 7 == 0) caf::anon_send(handles_of(**running).supervisor, restart_executor{});
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
    }
    REQUIRE(sink->wait(60));
    for (const auto& [id, text] : all) CHECK(sink->text(id) == text);
    CHECK(sink->terminal() == 60);
    CHECK((*running)->stats().pages_used == 0);
  }
}

TEST_CASE("engine: one that stays awake says the same, and sleeps when nobody asks") {
  for (const int flights : {1, 3}) {
    CAPTURE(flights);
    options chosen;
    chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
    chosen.stay_awake = 5ms;
    auto running = actors::start(chosen, testing::fake_model_beside(flights, 512), nullptr);
    REQUIRE(running);
    auto sink = std::make_shared<testing::recorder>();
    std::mt19937 random(4);
    std::vector<std::pair<request_id, std::string>> all;
    for (int i = 0; i < 40; ++i) {
      const std::string prompt = "stream " + std::to_string(i);
      all.emplace_back(*(*running)->submit(ask(prompt, 50), sink),
                       testing::expected_text(prompt, 50));
      if (i % 9 == 0) caf::anon_send(handles_of(**running).supervisor, restart_executor{});
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
    REQUIRE(sink->wait(40));
    for (const auto& [id, text] : all) CHECK(sink->text(id) == text);
    std::this_thread::sleep_for(50ms);
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(200ms);
    CHECK(std::clock() - before < CLOCKS_PER_SEC / 20);  // of all threads
  }
}

TEST_CASE("engine: beside each other, who kills its device ends alone and nobody else") {
  options chosen;
  chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
  const auto prepared = testing::fake_model_beside(3, 512, nullptr, {{'!', 20}});
  auto running = actors::start(chosen, prepared, nullptr);
  REQUIRE(running);
  auto sink = std::make_shared<testing::recorder>();
  std::vector<std::pair<request_id, std::string>> all;
  request_id poison{};
  for (int i = 0; i < 12; ++i) {
    if (i == 5) poison = *(*running)->submit(ask("!poison", 60), sink);
    const auto prompt = "stream " + std::to_string(i);
    all.emplace_back(*(*running)->submit(ask(prompt, 60), sink),
                     testing::expected_text(prompt, 60));
  }
  REQUIRE(sink->wait(13));
  for (const auto& [id, text] : all) CHECK(sink->text(id) == text);
  int failed = 0;
  for (const auto& one : sink->events()) {
    if (!std::holds_alternative<error_event>(one.what)) continue;
    CHECK(one.request == poison);
    ++failed;
  }
  CHECK(failed == 1);
}

TEST_CASE("engine: streams survive executors that die on three devices, and say the same") {
  options chosen;
  chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
  testing::lost_flags devices;
  for (int i = 0; i < 3; ++i) devices.push_back(std::make_shared<std::atomic<bool>>(false));
  auto running = actors::start(chosen, testing::fake_model_on(devices, 512), nullptr);
  REQUIRE(running);
  auto sink = std::make_shared<testing::recorder>();
  std::mt19937 random(5);
  std::vector<std::pair<request_id, std::string>> all;
  for (int i = 0; i < 60; ++i) {
    const auto prompt = "stream " + std::to_string(i);
    all.emplace_back(*(*running)->submit(ask(prompt, 300), sink),
                     testing::expected_text(prompt, 300));
    caf::anon_send(handles_of(**running).supervisor,
                   restart_executor{static_cast<int>(random() % 3)});
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    if (i == 30) devices[2]->store(true);  // its next death is its last
  }
  REQUIRE(sink->wait(60));
  for (const auto& [id, text] : all) CHECK(sink->text(id) == text);
  while (!(*running)->ready()) std::this_thread::sleep_for(1ms);
  CHECK((*running)->metrics().executor_up.value() <= 2);
}

TEST_CASE(
    "engine: a device that comes up late is ready only then; one that never does is an error") {
  options chosen;
  chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
  auto late = std::make_shared<std::atomic<int>>(restart_policy::alarm_deaths - 1);
  auto running = actors::start(chosen, testing::fake_model(64, nullptr, late), nullptr);
  REQUIRE(running);
  CHECK((*running)->ready());
  auto never = std::make_shared<std::atomic<int>>(std::numeric_limits<int>::max());
  const auto refused = actors::start(chosen, testing::fake_model(64, nullptr, never), nullptr);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::device);
  CHECK(refused.error().message.find("no such device") != std::string::npos);
}

TEST_CASE(
    "engine: without any executor it is not ready and requests fail in time, then it recovers") {
  options chosen;
  chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
  chosen.executor_wait_max = 20ms;
  auto failures = std::make_shared<std::atomic<int>>(0);
  auto started = actors::start(chosen, testing::fake_model(64, nullptr, failures), nullptr);
  REQUIRE(started);
  auto& running = **started;
  failures->store(std::numeric_limits<int>::max());
  caf::anon_send(handles_of(running).supervisor, restart_executor{});
  while (running.ready()) std::this_thread::sleep_for(1ms);
  auto sink = std::make_shared<testing::recorder>();
  REQUIRE(running.submit(ask("hello", 5), sink));
  REQUIRE(sink->wait(1));
  const auto last = sink->events().back();
  REQUIRE(std::holds_alternative<error_event>(last.what));
  CHECK(std::get<error_event>(last.what).failure.code == errc::device);
  CHECK_FALSE(running.ready());
  failures->store(0);
  while (!running.ready()) std::this_thread::sleep_for(1ms);
  const auto id = running.submit(ask("hello", 5), sink);
  REQUIRE(sink->wait(2));
  CHECK(sink->text(*id) == testing::expected_text("hello", 5));
}

TEST_CASE("engine: stop lets streams finish within the drain and refuses new ones") {
  auto running = start_fake();
  auto sink = std::make_shared<testing::recorder>();
  const auto id = running->submit(ask("hello", 100), sink);
  REQUIRE(id);
  running->stop(10s);
  CHECK(sink->terminal() == 1);
  CHECK(sink->text(*id) == testing::expected_text("hello", 100));
  const auto refused = running->submit(ask("hello", 1), sink);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::exhausted);
}

TEST_CASE("engine: the metrics page holds the table's names") {
  auto running = start_fake();
  const auto page = running->metrics_page();
  for (const auto* name :
       {"foretoken_kv_pages{state=\"used\"} 0", "foretoken_requests_total",
        "process_resident_memory_bytes", "foretoken_time_to_first_token_seconds_bucket"}) {
    CAPTURE(name);
    CHECK(page.find(name) != std::string::npos);
  }
}

TEST_CASE("engine: stopped at any moment, every accepted request ends exactly once") {
  // Every stage is busy: texts that wait for the tokenizer, requests for the device, streams.
  std::mt19937 random(20);
  int ended_by_stop = 0;
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    options chosen;
    chosen.inline_tokenize_bytes = 64;
    auto running = start_fake(chosen, 256);
    auto sink = std::make_shared<testing::recorder>();
    std::mutex mutex;
    std::set<request_id> accepted;
    const auto client = [&](unsigned seed) {
      std::mt19937 chance(seed);
      for (;;) {
        result<request_id> id = error{};
        if (chance() % 3 == 0) {
          id = running->tokenize(std::string(20'000, 'x'), {}, sink);
        } else {
          id = running->submit(ask(std::string(chance() % 2 == 0 ? 20 : 300, 'y'), 150), sink);
        }
        if (!id && id.error().message == "the server is stopping") return;
        if (!id) continue;
        const std::lock_guard lock(mutex);
        accepted.insert(*id);
        if (chance() % 4 == 0) running->cancel(*id);
      }
    };
    std::vector<std::thread> clients;
    for (int i = 0; i < 3; ++i) clients.emplace_back(client, random());
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    running->stop(std::chrono::milliseconds(random() % 5));
    const int at_stop = sink->terminal();
    for (auto& each : clients) each.join();
    std::map<request_id, int> terminal;
    for (const auto& one : sink->events()) {
      if (!one.terminal()) {
        CHECK(terminal.count(one.request) == 0);
        continue;
      }
      ++terminal[one.request];
      if (std::holds_alternative<error_event>(one.what)) ++ended_by_stop;
    }
    CHECK(at_stop == static_cast<int>(accepted.size()));
    CHECK(terminal.size() == accepted.size());
    for (const auto id : accepted) CHECK(terminal[id] == 1);
    CHECK(running->stats().requests == 0);
    running->cancel(*accepted.begin());  // stopped: ignored
  }
  MESSAGE("requests ended with an error by the stop: " << ended_by_stop);
}

TEST_CASE("delivery_thread: events reach the callback on one other thread") {
  auto running = start_fake();
  std::vector<std::thread::id> threads;
  std::string text;
  auto delivery = std::make_shared<delivery_thread>([&](const event& one) {
    threads.push_back(std::this_thread::get_id());
    if (const auto* piece = std::get_if<token_event>(&one.what)) text += piece->text;
  });
  REQUIRE(running->submit(ask("hello", 20), delivery));
  running->stop(10s);
  delivery->stop();
  REQUIRE_FALSE(threads.empty());
  for (const auto& id : threads) {
    CHECK(id == threads.front());
    CHECK(id != std::this_thread::get_id());
  }
  CHECK(text == testing::expected_text("hello", 20));
}

TEST_CASE("engine: a cancellation right behind its request ends it, short or long") {
  options chosen;
  chosen.inline_tokenize_bytes = 16;
  auto running = start_fake(chosen, 512);
  for (int i = 0; i < 50; ++i) {
    CAPTURE(i);
    auto sink = std::make_shared<testing::recorder>();
    const auto id = running->submit(ask(std::string(i % 2 == 0 ? 5 : 100, 'x'), 400), sink);
    REQUIRE(id);
    running->cancel(*id);
    REQUIRE(sink->wait(1));
    const auto last = sink->events().back();
    REQUIRE(std::holds_alternative<done_event>(last.what));
    CHECK(std::get<done_event>(last.what).reasons[0] == finish_reason::cancelled);
  }
}
