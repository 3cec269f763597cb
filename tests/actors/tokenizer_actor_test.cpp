// SPDX-License-Identifier: Apache-2.0
#include "actors/tokenizer_actor.hpp"

#include <future>

#include <doctest/doctest.h>

#include "actors/mailbox.hpp"
#include "fake_model.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

// Holds the tokenizer's thread inside its first answer until release().
class gate_sink final : public event_sink {
 public:
  void deliver(std::vector<event>) noexcept override {
    entered_.set_value();
    released_.get_future().wait();
  }
  void wait_entered() { entered_.get_future().wait(); }
  void release() { released_.set_value(); }

 private:
  std::promise<void> entered_, released_;
};

// A tokenizer that is busy, with requests waiting in its mailbox. No batcher: its messages go
// nowhere.
struct busy_tokenizer {
  busy_tokenizer() {
    handle = spawn_tokenizer(system, {testing::fake_model(), metrics, batcher_actor{}});
    tokenize(gate);
    gate->wait_entered();
  }
  ~busy_tokenizer() { caf::anon_send_exit(handle, caf::exit_reason::user_shutdown); }

  void tokenize(const std::shared_ptr<event_sink>& to) {
    const request_id id{++last};
    metrics->requests_open.add(1);
    tell(metrics->mailbox_tokenizer, handle,
         encode_text{id,
                     std::make_shared<const std::string>("text"),
                     {},
                     std::make_shared<terminal_promise>(id, to, metrics)});
  }
  void generate() {
    auto request = std::make_shared<generate_request>();
    request->prompt = std::string("prompt");
    request->n = 2;
    auto accepted = std::make_shared<accepted_request>();
    accepted->id = request_id{++last};
    accepted->request = request;
    accepted->ending = {accepted->id, sink, metrics};
    metrics->requests_open.add(1);
    tell(metrics->mailbox_tokenizer, handle, encode_prompt{std::move(accepted)});
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  std::shared_ptr<counters> metrics = std::make_shared<counters>();
  std::shared_ptr<gate_sink> gate = std::make_shared<gate_sink>();
  std::shared_ptr<testing::recorder> sink = std::make_shared<testing::recorder>();
  tokenizer_actor handle;
  std::uint64_t last = 0;
};

}  // namespace

TEST_CASE("tokenizer_actor: what waits in its mailbox when it ends has its terminal event") {
  busy_tokenizer busy;
  caf::anon_send_exit(busy.handle, caf::exit_reason::user_shutdown);
  busy.generate();  // behind the order to end
  busy.tokenize(busy.sink);
  busy.gate->release();
  REQUIRE(busy.sink->wait(2));
  for (const auto& one : busy.sink->events()) {
    REQUIRE(std::holds_alternative<error_event>(one.what));
    CHECK(std::get<error_event>(one.what).failure.code == errc::device);
  }
  CHECK(busy.metrics->requests_open.value() == 0);
}

TEST_CASE("tokenizer_actor: a cancellation of all overtakes what waits, which needs no tokens") {
  busy_tokenizer busy;
  busy.generate();
  busy.tokenize(busy.sink);
  tell_first(busy.metrics->mailbox_tokenizer, busy.handle, cancel_every_request{});
  busy.gate->release();
  REQUIRE(busy.sink->wait(2));
  const auto events = busy.sink->events();
  REQUIRE(std::holds_alternative<done_event>(events[0].what));
  CHECK(std::get<done_event>(events[0].what).reasons ==
        std::vector{finish_reason::cancelled, finish_reason::cancelled});
  REQUIRE(std::holds_alternative<error_event>(events[1].what));
  CHECK(std::get<error_event>(events[1].what).failure.code == errc::exhausted);
  CHECK(busy.metrics->requests_open.value() == 0);
  CHECK(busy.metrics->mailbox_tokenizer.value() == 0);
}
