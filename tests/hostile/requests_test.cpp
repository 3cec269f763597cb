// SPDX-License-Identifier: Apache-2.0
// Entries 68 to 72 of the catalogue at the engine: what needs the vocabulary or the context.
#include <doctest/doctest.h>

#include <limits>

#include "actors/handles.hpp"
#include "tests/actors/fake_model.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

std::unique_ptr<engine> start_fake() {
  auto started = actors::start(options{}, testing::fake_model(), nullptr);
  REQUIRE(started);
  return std::move(started).value();
}

}  // namespace

TEST_CASE("requests: what is beyond a bound is refused by name") {
  const auto running = start_fake();
  const auto sink = std::make_shared<testing::recorder>();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  struct row {
    const char* what;
    const char* field;
    std::function<void(generate_request&)> spoil;
  };
  const std::vector<row> rows{
      {"empty text", "prompt", [](auto& r) { r.prompt = text_prompt(); }},
      {"no ids", "prompt", [](auto& r) { r.prompt = token_prompt(); }},
      {"id -1", "prompt", [](auto& r) { r.prompt = token_prompt{-1}; }},
      {"id of the size", "prompt", [](auto& r) { r.prompt = token_prompt{testing::vocabulary}; }},
      {"id 2^31-1", "prompt",
       [](auto& r) { r.prompt = token_prompt{std::numeric_limits<token>::max()}; }},
      {"10 million ids", "prompt", [](auto& r) { r.prompt = token_prompt(10'000'000, 'a'); }},
      {"longer than the context", "prompt", [](auto& r) { r.prompt = token_prompt(600, 'a'); }},
      {"2000 biases", "logit_bias",
       [](auto& r) {
         r.sampling.logit_bias.resize(2000, {token{5}, 1.0f});
       }},
      {"bias NaN", "logit_bias",
       [=](auto& r) {
         r.sampling.logit_bias = {{5, nan}};
       }},
      {"bias of a stranger", "logit_bias",
       [](auto& r) {
         r.sampling.logit_bias = {{testing::vocabulary, 1.0f}};
       }},
      {"17 stops", "stop", [](auto& r) { r.stop.assign(17, "x"); }},
      {"long stop", "stop", [](auto& r) { r.stop = {std::string(300, 'x')}; }},
      {"salt of 65 bytes", "cache_salt", [](auto& r) { r.cache_salt.assign(65, 's'); }},
      {"salt of control bytes", "cache_salt", [](auto& r) { r.cache_salt = "\x01"; }},
      {"temperature NaN", "temperature", [=](auto& r) { r.sampling.temperature = nan; }},
      {"temperature 1e38", "temperature", [](auto& r) { r.sampling.temperature = 1e38f; }},
      {"n 10^6", "n", [](auto& r) { r.n = 1'000'000; }},
  };
  for (const auto& [what, field, spoil] : rows) {
    CAPTURE(what);
    generate_request request;
    request.prompt = "hello";
    request.max_tokens = 4;
    spoil(request);
    const auto refused = running->submit(std::move(request), sink);
    REQUIRE_FALSE(refused);
    CHECK(errc_name(refused.error().code) == std::string("invalid_argument"));
    CHECK(refused.error().field == field);
  }
  CHECK(running->stats().requests == 0);
}

TEST_CASE("requests: a megabyte of prompt is refused by name") {
  const auto running = start_fake();
  const auto sink = std::make_shared<testing::recorder>();
  generate_request request;
  request.prompt = std::string(1u << 20, 'a');
  request.max_tokens = 4;
  REQUIRE(running->submit(std::move(request), sink));  // long text is encoded later
  REQUIRE(sink->wait(1));
  const auto last = sink->events().back();
  REQUIRE(std::holds_alternative<error_event>(last.what));
  const auto& failure = std::get<error_event>(last.what).failure;
  CHECK(failure.field == "prompt");
  CHECK(failure.code == errc::invalid_argument);
  CHECK(failure.message.find("1048576") != std::string::npos);
}
