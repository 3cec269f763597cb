// SPDX-License-Identifier: Apache-2.0
#include "actors/accept.hpp"

#include <doctest/doctest.h>

#include "actors/handles.hpp"
#include "fake_model.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

std::shared_ptr<const loaded_model> talking_model() {
  auto made = std::make_shared<loaded_model>(*testing::fake_model());
  made->chat = tokenizer::chat_family::chatml;
  return made;
}

generate_request talk(std::size_t messages) {
  generate_request request;
  request.prompt = chat_prompt(messages, {"user", ""});
  return request;
}

}  // namespace

TEST_CASE("accept: a message counts with what its template adds") {
  CHECK(prompt_bytes(talk(100)) > 100 * 30);
  generate_request one = talk(1);
  std::get<chat_prompt>(one.prompt)[0].content = "hello";
  CHECK(prompt_bytes(one) - prompt_bytes(talk(1)) == 5);
}

TEST_CASE("accept: conversations have a bound on their messages") {
  options limits;
  limits.messages_max = 3;
  const auto model = talking_model();
  CHECK(validate(talk(3), *model, limits));
  const auto refused = validate(talk(4), *model, limits);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().field == "messages");
  limits.prompt_bytes_max = 50;
  const auto large = validate(talk(2), *model, limits);
  REQUIRE_FALSE(large);
  CHECK(large.error().field == "messages");
}

TEST_CASE("accept: a thousand tiny messages are rendered by the tokenizer actor, not the caller") {
  auto running = actors::start({}, talking_model(), nullptr);
  REQUIRE(running);
  auto sink = std::make_shared<testing::recorder>();
  // Longer than the context: rendered on this thread, the refusal would be submit's own.
  REQUIRE((*running)->submit(talk(1000), sink));
  REQUIRE(sink->wait(1));
  const auto last = sink->events().back();
  const auto* failed = std::get_if<error_event>(&last.what);
  REQUIRE(failed != nullptr);
  CHECK(failed->failure.field == "messages");
}
