// SPDX-License-Identifier: Apache-2.0
// A service that embeds the engine: two prompts in, their continuations out as they grow.
#include <cstdio>
#include <future>
#include <map>
#include <string>

#include <foretoken/actors/engine.hpp>

namespace actors = foretoken::actors;

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: embedding MODEL PROMPT...\n");
    return 2;
  }
  actors::options options;
  options.model = words[1];
  auto engine = actors::engine::start(options);
  if (!engine) {
    std::fprintf(stderr, "%s\n", foretoken::to_string(engine.error()).c_str());
    return 2;
  }

  // Events come one at a time on a thread of the sink's own; only that thread touches `texts`.
  std::map<foretoken::request_id, std::string> texts;
  int left = count - 2;
  std::promise<void> ended;
  auto sink = std::make_shared<actors::delivery_thread>([&](const actors::event& event) {
    if (const auto* token = std::get_if<actors::token_event>(&event.what)) {
      texts[event.request] += token->text;
    }
    if (event.terminal() && --left == 0) ended.set_value();
  });

  for (int i = 2; i < count; ++i) {
    actors::generate_request request;
    request.prompt = std::string(words[i]);
    request.max_tokens = 24;
    request.sampling.temperature = 0;
    if (auto accepted = (*engine)->submit(std::move(request), sink); !accepted) {
      std::fprintf(stderr, "%s\n", foretoken::to_string(accepted.error()).c_str());
      return 1;
    }
  }
  ended.get_future().wait();
  (*engine)->stop(std::chrono::seconds(1));
  sink->stop();
  for (const auto& [id, text] : texts) std::printf("%s\n", text.c_str());
  return 0;
}
