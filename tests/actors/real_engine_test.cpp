// SPDX-License-Identifier: Apache-2.0
// The engine over the real model: streams that survive their executors, reuse, invariance.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdlib>
#include <filesystem>
#include <thread>

#include <doctest/doctest.h>

#include "actors/devices.hpp"
#include "actors/engine.hpp"
#include "actors/handles.hpp"
#include "fake_model.hpp"

using namespace foretoken;
using namespace foretoken::actors;
using namespace std::chrono_literals;

namespace {

std::filesystem::path model_path() {
  if (const char* given = std::getenv("FORETOKEN_MODEL")) return given;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "") /
         ".cache/foretoken/SmolLM2-135M-Instruct.Q4_1.gguf";
}

std::unique_ptr<engine> start_real(std::uint64_t kv_bytes = 256u << 20) {
  options chosen;
  chosen.model = model_path();
  chosen.cpu.kv_bytes = kv_bytes;
  chosen.restart_backoff = 1ms;
  chosen.restart_backoff_max = 5ms;
  auto started = engine::start(chosen);
  REQUIRE_MESSAGE(started, (started ? "" : to_string(started.error())));
  return std::move(started).value();
}

generate_request ask(const std::string& prompt, int tokens, std::uint64_t seed) {
  generate_request request;
  request.prompt = prompt;
  request.max_tokens = tokens;
  request.ignore_eos = true;
  request.seed_given = true;
  request.sampling.seed = seed;
  request.sampling.temperature = 0.8f;
  return request;
}

const std::vector<std::string> prompts{"The capital of France is", "Once upon a time",
                                       "To make tea you", "In 1969 the first people",
                                       "My grandmother kept"};

std::string alone(engine& running, const generate_request& request) {
  auto sink = std::make_shared<testing::recorder>();
  const auto id = running.submit(request, sink);
  REQUIRE(id);
  REQUIRE(sink->wait(1, 120s));
  return sink->text(*id);
}

// Kills the executor each time that it has brought new tokens, until the streams end.
void kill_while_streaming(engine& running, const testing::recorder& sink) {
  std::size_t seen = 0;
  const auto all = static_cast<int>(prompts.size());
  while (sink.terminal() < all) {
    const auto events = sink.events().size();
    if (events >= seen + prompts.size()) {
      seen = events;
      caf::anon_send(handles_of(running).supervisor, restart_executor{});
    }
    std::this_thread::sleep_for(1ms);
  }
}

done_event last_done(const testing::recorder& sink) {
  const auto last = sink.events().back();
  REQUIRE(std::holds_alternative<done_event>(last.what));
  return std::get<done_event>(last.what);
}

}  // namespace

TEST_CASE("real engine: the executor killed 100 times in mid-stream changes no byte") {
  std::vector<std::string> undisturbed;
  {
    auto running = start_real();
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      undisturbed.push_back(alone(*running, ask(prompts[i], 60, i)));
    }
  }
  auto running = start_real();
  const auto restarts = [&] { return running->stats().executor_restarts; };
  while (restarts() < 100) {
    auto sink = std::make_shared<testing::recorder>();
    std::vector<request_id> ids;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      ids.push_back(*running->submit(ask(prompts[i], 60, i), sink));
    }
    kill_while_streaming(*running, *sink);
    REQUIRE(sink->wait(static_cast<int>(prompts.size()), 120s));
    for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(sink->text(ids[i]) == undisturbed[i]);
  }
  MESSAGE("executors restarted in mid-stream: " << restarts());
  CHECK(running->stats().pages_used == 0);
}

TEST_CASE("real engine: two devices share the requests, one dies again and again, the same bytes") {
  options chosen;
  chosen.model = model_path();
  chosen.cpu.kv_bytes = 128u << 20;
  chosen.restart_backoff = chosen.restart_backoff_max = 1ms;
  auto one = prepare_model(chosen, std::make_shared<counters>(), {});
  REQUIRE(one);
  auto both = std::make_shared<loaded_model>(**one);
  both->devices.push_back(both->devices.front());
  std::vector<std::string> undisturbed;
  {
    auto running = actors::start(chosen, *one, nullptr);
    REQUIRE(running);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      undisturbed.push_back(alone(**running, ask(prompts[i], 60, i)));
    }
  }
  auto running = actors::start(chosen, both, nullptr);
  REQUIRE(running);
  while ((*running)->metrics().executor_up.value() < 2) std::this_thread::sleep_for(1ms);
  auto sink = std::make_shared<testing::recorder>();
  std::vector<request_id> ids;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ids.push_back(*(*running)->submit(ask(prompts[i], 60, i), sink));
  }
  kill_while_streaming(**running, *sink);
  for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(sink->text(ids[i]) == undisturbed[i]);
  CHECK((*running)->stats().executor_restarts > 0);
  CHECK((*running)->stats().pages_used == 0);
}

TEST_CASE("real engine: the same bytes alone, in a batch, cached, and under memory pressure") {
  auto running = start_real();
  std::vector<std::string> first;
  for (std::size_t i = 0; i < prompts.size(); ++i)
    first.push_back(alone(*running, ask(prompts[i], 40, i)));
  auto small = start_real(2u << 20);  // 2 MiB hold five pages: sequences are preempted
  for (engine* one : {running.get(), small.get()}) {
    auto sink = std::make_shared<testing::recorder>();
    std::vector<request_id> ids;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      ids.push_back(*one->submit(ask(prompts[i], 40, i), sink));
    REQUIRE(sink->wait(static_cast<int>(prompts.size()), 120s));
    for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(sink->text(ids[i]) == first[i]);
  }
  CHECK(small->metrics().preemptions.value() > 0);
}

TEST_CASE("real engine: 64 clients with one long prompt compute it once") {
  auto running = start_real();
  std::string shared = "You are a patient assistant.";
  for (int i = 0; i < 120; ++i) shared += " Rule " + std::to_string(i) + " says be brief and kind.";
  auto sink = std::make_shared<testing::recorder>();
  for (int i = 0; i < 64; ++i) {
    REQUIRE(running->submit(ask(shared + " Client " + std::to_string(i), 4, 1), sink));
  }
  REQUIRE(sink->wait(64, 240s));
  std::uint64_t prompt_tokens = 0, cached = 0;
  int longest = 0;
  for (const auto& one : sink->events()) {
    if (const auto* done = std::get_if<done_event>(&one.what)) {
      prompt_tokens += static_cast<std::uint64_t>(done->usage.prompt_tokens);
      cached += static_cast<std::uint64_t>(done->usage.cached_tokens);
      longest = std::max(longest, done->usage.prompt_tokens);
    }
  }
  MESSAGE("prompt tokens " << prompt_tokens << ", cached " << cached << ", longest " << longest);
  CHECK(longest > 1000);
  // computed: the shared part once, and at most a page and the last words of each client
  CHECK(prompt_tokens - cached <= static_cast<std::uint64_t>(longest) + 64 * 32);
}

TEST_CASE("real engine: an extended prompt computes only what is new and says the same as cold") {
  const std::string text =
      "The train had been standing in the tunnel for twenty minutes when the lights";
  auto cold = start_real();
  const auto expected = alone(*cold, ask(text + " went out and", 20, 3));
  auto running = start_real();
  alone(*running, ask(text, 8, 3));
  auto sink = std::make_shared<testing::recorder>();
  const auto id = running->submit(ask(text + " went out and", 20, 3), sink);
  REQUIRE(id);
  REQUIRE(sink->wait(1, 60s));
  CHECK(sink->text(*id) == expected);
  CHECK(last_done(*sink).usage.cached_tokens >= 10);
}

int main(int argc, char** argv) {
  if (!std::filesystem::exists(model_path())) {
    std::printf("skipped: no model at %s\n", model_path().c_str());
    return 77;
  }
  doctest::Context context(argc, argv);
  return context.run();
}
