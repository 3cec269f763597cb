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
          auto& asked = *message.request;
          if (stopping_) return asked.ending.end(cancelled(*asked.request));
          const auto encoded = encode(asked, *parts_.model);
          if (!encoded) return asked.ending.end(error_event{encoded.error()});
          tell(parts_.metrics->mailbox_batcher, parts_.batcher, submit{message.request});
        },
        // Comes after the request it means, and reaches the batcher after it.
        [this](const cancel_request& message) {
          parts_.metrics->mailbox_tokenizer.add(-1);
          tell(parts_.metrics->mailbox_batcher, parts_.batcher, message);
        },
        [this](const encode_text& message) {
          parts_.metrics->mailbox_tokenizer.add(-1);
          if (stopping_) return message.answer->end(error_event{stopping()});
          message.answer->end(
              tokens_event{parts_.model->words->encode(*message.text, message.how)});
        },
        // Overtakes the requests that wait here: they need no tokens any more. The batcher hears of
        // it behind those that had them.
        [this](const cancel_every_request& message) {
          parts_.metrics->mailbox_tokenizer.add(-1);
          stopping_ = true;
          tell(parts_.metrics->mailbox_batcher, parts_.batcher, message);
        },
    };
  }

  void on_exit() override { parts_.batcher = nullptr; }

 private:
  static done_event cancelled(const generate_request& request) {
    return {std::vector(static_cast<std::size_t>(request.n), finish_reason::cancelled), {}};
  }
  static error stopping() { return {errc::exhausted, "the server is stopping"}; }

  tokenizer_parts parts_;
  bool stopping_ = false;
};

}  // namespace

tokenizer_actor spawn_tokenizer(caf::actor_system& system, tokenizer_parts parts) {
  return system.spawn<tokenizer_state, caf::detached>(std::move(parts));
}

}  // namespace foretoken::actors
