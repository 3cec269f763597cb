// SPDX-License-Identifier: Apache-2.0
// A service in the same actor system: an actor of its own receives a stream's events as messages.
#include <cstdio>
#include <string>

#include <foretoken/actors/handles.hpp>

namespace actors = foretoken::actors;

namespace {

// Prints the text as it comes and ends with the stream.
caf::behavior printer(caf::event_based_actor* self) {
  return {[self](const actors::stream_events& message) {
    for (const auto& event : *message.events) {
      if (const auto* token = std::get_if<actors::token_event>(&event.what)) {
        std::fputs(token->text.c_str(), stdout);
      }
      if (event.terminal()) self->quit();
    }
  }};
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::fprintf(stderr, "usage: subscriber MODEL PROMPT\n");
    return 2;
  }
  caf::actor_system_config config;
  actors::tune(config, 1);
  caf::actor_system system(config);
  actors::options options;
  options.model = words[1];
  auto engine = actors::start(options, system);
  if (!engine) {
    std::fprintf(stderr, "%s\n", foretoken::to_string(engine.error()).c_str());
    return 2;
  }
  auto subscriber = system.spawn(printer);
  foretoken::generate_request request;
  request.prompt = std::string(words[2]);
  request.max_tokens = 24;
  request.sampling.temperature = 0;
  auto accepted = (*engine)->submit(std::move(request), actors::subscribe(subscriber));
  if (!accepted) {
    std::fprintf(stderr, "%s\n", foretoken::to_string(accepted.error()).c_str());
    return 1;
  }
  caf::scoped_actor self(system);
  self->wait_for(subscriber);  // it quits with the stream's last event
  (*engine)->stop(std::chrono::seconds(1));
  std::puts("");
  return 0;
}
