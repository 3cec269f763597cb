// SPDX-License-Identifier: Apache-2.0
#include "actors/tokenizer_actor.hpp"

#include "actors/accept.hpp"
#include "actors/mailbox.hpp"

namespace foretoken::actors {
namespace {

class tokenizer_state : public tokenizer_actor::base {
 public:
  tokenizer_state(caf::actor_config& config, tokenizer_parts parts)
      : tokenizer_actor::base(config), parts_(std::move(parts)) {}

  const char* name() const override { return "tokenizer"; }

  behavior_type make_behavior() override {
    return {
        [this](const encode_prompt& message) {
          parts_.metrics->mailbox_tokenizer.add(-1);
          const auto encoded = encode(*message.request, *parts_.model);
          if (encoded) {
            tell(parts_.metrics->mailbox_batcher, parts_.batcher, submit{message.request});
          } else {
            end_with(*message.request->sink, message.request->id, error_event{encoded.error()});
          }
        },
        // Comes after the request it means, and reaches the batcher after it.
        [this](const cancel_request& message) {
          parts_.metrics->mailbox_tokenizer.add(-1);
          tell(parts_.metrics->mailbox_batcher, parts_.batcher, message);
        },
        [this](const encode_text& message) {
          parts_.metrics->mailbox_tokenizer.add(-1);
          end_with(*message.sink, message.id,
                   tokens_event{parts_.model->words->encode(*message.text, message.how)});
        },
    };
  }

  void on_exit() override { parts_.batcher = nullptr; }

 private:
  void end_with(event_sink& sink, request_id id, decltype(event::what) what) {
    parts_.metrics->requests_open.add(-1);
    if (std::holds_alternative<error_event>(what)) parts_.metrics->finished_error.add();
    std::vector<event> events;
    events.push_back({id, std::move(what)});
    sink.deliver(std::move(events));
  }

  tokenizer_parts parts_;
};

}  // namespace

tokenizer_actor spawn_tokenizer(caf::actor_system& system, tokenizer_parts parts) {
  return system.spawn<tokenizer_state, caf::detached>(std::move(parts));
}

}  // namespace foretoken::actors
