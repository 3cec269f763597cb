// SPDX-License-Identifier: Apache-2.0
#include "actors/supervisor_actor.hpp"

#include <limits>
#include <optional>

#include <doctest/doctest.h>
#include <caf/scheduler/test_coordinator.hpp>

#include "actors/batcher_actor.hpp"
#include "actors/cache_manager_actor.hpp"
#include "actors/restart_policy.hpp"
#include "fake_model.hpp"
#include "model/forward.hpp"

using namespace foretoken;
using namespace foretoken::actors;
using namespace std::chrono_literals;

namespace {

// Takes steps and never answers. A class: CAF 0.17's actors made of a function without arguments
// read a null pointer, which the standard library's own checks end.
using taken_batches = std::shared_ptr<std::vector<std::shared_ptr<const model::micro_batch>>>;
class hanging_executor : public executor_actor::base {
 public:
  hanging_executor(caf::actor_config& config, taken_batches taken)
      : executor_actor::base(config), taken_(std::move(taken)) {}
  behavior_type make_behavior() override {
    return {[](const prepare_device&) { return device_ready{}; },
            [this](const run_step& message) { taken_->push_back(message.batch); },
            [](const look_at_flights&) {}};
  }

 private:
  taken_batches taken_;
};

// Actors under CAF's test coordinator: no threads, virtual time, no sleeps.
struct world {
  struct settings : caf::actor_system_config {
    settings() { set("scheduler.policy", caf::atom("testing")); }
  };

  explicit world(std::shared_ptr<std::atomic<int>> steps_left = nullptr,
                 std::shared_ptr<std::atomic<int>> failures_left = nullptr,
                 std::function<bool()> gone = {})
      : world(testing::fake_model(
            64, std::move(steps_left), std::move(failures_left), std::move(gone))) {}
  explicit world(std::shared_ptr<const loaded_model> prepared)
      : system(config),
        time(static_cast<caf::scheduler::test_coordinator&>(system.scheduler())),
        model(std::move(prepared)) {
    pages = std::make_shared<cache::pools>(std::vector<int>(model->devices.size(), 64));
    cache_manager = spawn_cache_manager(system, pages, metrics);
    batcher = spawn_batcher(system, {model, pages, metrics, chosen, cache_manager, hangs});
    supervisor = spawn_supervisor(system, {model, chosen, metrics, batcher, tokenizer_actor{},
                                           cache_manager, metrics_actor{}, broken, false});
    time.run();
  }
  ~world() {
    caf::anon_send_exit(supervisor, caf::exit_reason::user_shutdown);
    time.run();
  }
  void pass(std::chrono::milliseconds time_passed) {
    time.advance_time(time_passed);
    time.run();
  }
  // What engine::start would hear; nothing yet when the supervisor has not answered.
  std::optional<start_outcome> outcome() {
    std::optional<start_outcome> heard;
    caf::scoped_actor self(system);
    auto asked = self->request(supervisor, caf::infinite, await_executor{});
    time.run();
    if (self->has_next_message()) {
      asked.receive([&](start_outcome& one) { heard = std::move(one); }, [](const caf::error&) {});
    }
    return heard;
  }
  request_id submit_text(const std::string& prompt, int tokens) {
    auto accepted = std::make_shared<accepted_request>();
    auto request = std::make_shared<generate_request>();
    request->prompt = prompt;
    request->max_tokens = tokens;
    accepted->id = request_id{++last};
    accepted->request = request;
    accepted->prompt = std::make_shared<const std::vector<token>>(model->words->encode(prompt));
    accepted->max_tokens = tokens;
    accepted->sink = sink;
    accepted->ending = {accepted->id, sink, metrics};
    metrics->requests_open.add(1);
    caf::anon_send(batcher, submit{accepted});
    return request_id{last};
  }

  settings config;
  caf::actor_system system;
  caf::scheduler::test_coordinator& time;
  std::shared_ptr<const options> chosen = std::make_shared<const options>();
  std::shared_ptr<counters> metrics = std::make_shared<counters>();
  std::shared_ptr<std::atomic<bool>> broken = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<std::atomic<bool>> hangs = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<const loaded_model> model;
  std::shared_ptr<cache::pools> pages;
  std::shared_ptr<testing::recorder> sink = std::make_shared<testing::recorder>();
  cache_manager_actor cache_manager;
  batcher_actor batcher;
  supervisor_actor supervisor;
  std::uint64_t last = 0;
};

}  // namespace

TEST_CASE("supervisor: a request goes through batcher and executor and back") {
  world w;
  const auto id = w.submit_text("hello", 12);
  w.time.run();
  CHECK(w.sink->terminal() == 1);
  CHECK(w.sink->text(id) == testing::expected_text("hello", 12));
  CHECK(w.pages->counts().used == 0);
}

TEST_CASE("supervisor: a dead executor is replaced after its back-off and the stream goes on") {
  auto steps = std::make_shared<std::atomic<int>>(5);
  world w(steps);
  const auto id = w.submit_text("hello", 12);
  w.time.run();
  CHECK(w.sink->terminal() == 0);
  CHECK(w.metrics->executor_up.value() == 0);
  CHECK(w.metrics->executor_restarts.value() == 1);
  steps->store(1000);
  w.time.advance_time(9ms);
  w.time.run();
  CHECK(w.metrics->executor_up.value() == 0);  // 10 ms is the first back-off
  w.time.advance_time(1ms);
  w.time.run();
  CHECK(w.metrics->executor_up.value() == 1);
  CHECK(w.sink->terminal() == 1);
  CHECK(w.sink->text(id) == testing::expected_text("hello", 12));
}

TEST_CASE("supervisor: an executor is up only once its device exists") {
  auto failures = std::make_shared<std::atomic<int>>(3);
  world w(nullptr, failures);
  const auto id = w.submit_text("hello", 12);
  w.time.run();
  for (const auto back_off : {10ms, 20ms, 40ms}) {
    CAPTURE(back_off.count());
    CHECK(w.metrics->executor_up.value() == 0);
    CHECK(w.metrics->mailbox_executor.value() == 0);  // no work for what is not there
    CHECK(w.sink->terminal() == 0);
    w.pass(back_off);
  }
  CHECK(w.metrics->executor_up.value() == 1);
  CHECK(w.metrics->executor_restarts.value() == 3);
  CHECK(w.sink->text(id) == testing::expected_text("hello", 12));
  const auto heard = w.outcome();
  REQUIRE(heard);
  CHECK(heard->up);
}

TEST_CASE("supervisor: a device that can never be made ends requests in time, retryable") {
  world w(nullptr, std::make_shared<std::atomic<int>>(std::numeric_limits<int>::max()));
  w.submit_text("early", 12);
  for (int i = 0; i < 20; ++i) w.pass(1s);
  w.submit_text("late", 12);
  CHECK(w.metrics->executor_up.value() == 0);
  CHECK(w.sink->terminal() == 0);
  for (int i = 0; i < 11; ++i) w.pass(1s);
  CHECK(w.sink->terminal() >= 1);  // 30 s is the bound
  for (int i = 0; i < 20; ++i) w.pass(1s);
  REQUIRE(w.sink->terminal() == 2);
  for (const auto& one : w.sink->events()) {
    REQUIRE(std::holds_alternative<error_event>(one.what));
    CHECK(std::get<error_event>(one.what).failure.code == errc::device);
  }
  CHECK(w.metrics->executor_up.value() == 0);
  CHECK(w.pages->counts().used == 0);
}

TEST_CASE("supervisor: whoever awaits the first executor hears why none comes up") {
  world w(nullptr, std::make_shared<std::atomic<int>>(std::numeric_limits<int>::max()));
  caf::scoped_actor self(w.system);
  auto asked = self->request(w.supervisor, caf::infinite, await_executor{});
  w.time.run();
  CHECK_FALSE(self->has_next_message());
  for (int i = 0; i < restart_policy::alarm_deaths; ++i) w.pass(100ms);
  REQUIRE(self->has_next_message());
  asked.receive(
      [](const start_outcome& one) {
        CHECK_FALSE(one.up);
        CHECK(one.why.find("no such device") != std::string::npos);
      },
      [](const caf::error&) { FAIL("no answer"); });
}

TEST_CASE("supervisor: one device lost and the other never made: whoever awaits one hears it") {
  auto lost = testing::lost_flags{};
  for (int i = 0; i < 2; ++i) lost.push_back(std::make_shared<std::atomic<bool>>(i == 0));
  auto model = std::make_shared<loaded_model>(*testing::fake_model_on(lost));
  model->devices[1].make = []() -> result<std::unique_ptr<model::ops>> {
    return error{errc::device, "no memory"};
  };
  world w(model);
  caf::scoped_actor self(w.system);
  auto asked = self->request(w.supervisor, caf::infinite, await_executor{});
  for (int i = 0; i < restart_policy::alarm_deaths; ++i) w.pass(100ms);
  REQUIRE(self->has_next_message());
  asked.receive([](const start_outcome& one) { CHECK_FALSE(one.up); },
                [](const caf::error&) { FAIL("no answer"); });
}

TEST_CASE("supervisor: a command for a device that there is not changes nothing") {
  world w;
  for (const int device : {-1, 1}) caf::anon_send(w.supervisor, restart_executor{device});
  w.time.run();
  const auto heard = w.outcome();  // it lives
  REQUIRE(heard);
  CHECK(heard->up);
  CHECK(w.metrics->executor_restarts.value() == 0);
}

TEST_CASE("batcher: a step that does not come back ends the requests, and its return heals") {
  world w;
  const auto taken = std::make_shared<taken_batches::element_type>();
  const executor_actor hanging = w.system.spawn<hanging_executor>(taken);
  caf::anon_send(w.batcher, executor_up{0, 99, hanging});
  w.submit_text("hello", 12);
  w.time.run();
  REQUIRE(taken->size() == 1);
  for (int i = 0; i < 299; ++i) w.pass(1s);
  CHECK_FALSE(w.hangs->load());
  CHECK(w.metrics->executor_up.value() == 1);
  CHECK(w.sink->terminal() == 0);
  for (int i = 0; i < 2; ++i) w.pass(1s);
  CHECK(w.hangs->load());
  CHECK(w.metrics->executor_up.value() == 0);
  CHECK(w.sink->terminal() == 1);
  testing::fake_device device(64, nullptr);
  auto late = model::forward(device, *taken->front());
  REQUIRE(late);
  caf::anon_send(w.batcher,
                 step_done{0, 99, std::make_shared<const model::step_result>(*late), {}});
  w.time.run();
  CHECK_FALSE(w.hangs->load());
  CHECK(w.metrics->executor_up.value() == 1);
  CHECK(w.sink->terminal() == 1);
  CHECK(w.pages->counts().used == 0);
  for (int i = 0; i < 400; ++i) w.pass(1s);  // idle is not hanging
  CHECK_FALSE(w.hangs->load());
}

namespace {

// An executor in the test's hands: steps last as long as the test says.
struct by_hand {
  explicit by_hand(world& in, int flights = 1) : w(in) {
    caf::anon_send(w.batcher, executor_up{0, 99, w.system.spawn<hanging_executor>(taken), flights});
    w.time.run();
  }
  std::size_t steps() const { return taken->size(); }
  std::size_t slices() const { return taken->back()->slices.size(); }
  void finish(std::size_t step) {
    auto done = model::forward(device, *taken->at(step));
    REQUIRE(done);
    caf::anon_send(
        w.batcher,
        step_done{
            0, 99, std::make_shared<const model::step_result>(*done), {}, w.system.clock().now()});
    w.time.run();
  }

  world& w;
  taken_batches taken = std::make_shared<taken_batches::element_type>();
  testing::fake_device device{64, nullptr};
};

}  // namespace

TEST_CASE("batcher: requests that arrive during a step join the next one, staged before it ends") {
  world w;
  by_hand device(w);
  for (std::size_t i = 0; i < 40; ++i) {  // steps of 10 ms
    w.submit_text("hello", 1);
    w.time.run();
    REQUIRE(device.steps() == i + 1);
    w.pass(10ms);
    device.finish(i);
  }
  w.submit_text("hello", 1);
  w.time.run();
  REQUIRE(device.steps() == 41);
  w.pass(1ms);
  w.submit_text("early", 1);
  w.pass(4ms);
  w.submit_text("later", 1);
  w.pass(1ms);
  CHECK(device.steps() == 41);  // held back
  w.pass(4ms);
  CHECK(device.steps() == 42);  // the step is not done yet
  CHECK(device.slices() == 2);
  w.submit_text("too late", 1);
  w.pass(5ms);
  CHECK(device.steps() == 42);  // two credits
  device.finish(40);
  device.finish(41);
  CHECK(device.steps() == 43);
  device.finish(42);
  CHECK(w.sink->terminal() == 44);
}

TEST_CASE(
    "batcher: on a device with several flights a request starts beside the others, few rows") {
  world w;
  by_hand device(w, 3);
  w.submit_text("first", 1);
  w.time.run();
  w.submit_text("second", 1);
  w.time.run();
  w.submit_text(std::string(500, 'x'), 1);
  w.time.run();
  CHECK(device.steps() == 3);  // nobody waited
  w.submit_text("fourth", 1);
  w.submit_text("fifth", 1);
  w.time.run();
  CHECK(device.steps() == 3);  // no more than three
  device.finish(1);            // not the oldest
  CHECK(device.steps() == 4);
  CHECK(device.slices() == 2);
  for (const std::size_t step : {3u, 0u, 2u}) device.finish(step);
  CHECK(w.sink->terminal() == 5);
  CHECK(w.pages->counts().used == 0);
}

TEST_CASE("batcher: a device lost for good ends what waits and what comes, at once and retryable") {
  auto failures = std::make_shared<std::atomic<int>>(0);
  auto steps = std::make_shared<std::atomic<int>>(3);
  auto gone = std::make_shared<std::atomic<bool>>(false);
  world w(steps, failures, [gone] { return gone->load(); });
  failures->store(std::numeric_limits<int>::max());
  gone->store(true);
  w.submit_text("running", 12);
  w.time.run();  // no time passes
  CHECK(w.sink->terminal() == 1);
  w.submit_text("comes later", 12);
  w.time.run();
  CHECK(w.sink->terminal() == 2);
  for (const auto& one : w.sink->events()) {
    if (!one.terminal()) continue;
    REQUIRE(std::holds_alternative<error_event>(one.what));
    CHECK(std::get<error_event>(one.what).failure.code == errc::device);
  }
  CHECK(w.pages->counts().used == 0);
}

TEST_CASE("supervisor: restart_executor in mid-stream changes no byte") {
  world w;
  const auto id = w.submit_text("hello", 40);
  for (int i = 0; i < 30; ++i) w.time.run_once();
  caf::anon_send(w.supervisor, restart_executor{});
  w.time.run();
  for (int i = 0; i < 3; ++i) {
    w.time.advance_time(1s);
    w.time.run();
  }
  CHECK(w.metrics->executor_restarts.value() == 1);
  CHECK(w.sink->terminal() == 1);
  CHECK(w.sink->text(id) == testing::expected_text("hello", 40));
}

TEST_CASE("supervisor: an actor that must not die makes the engine unhealthy") {
  world w;
  caf::anon_send_exit(w.cache_manager, caf::exit_reason::kill);
  w.time.run();
  CHECK(w.broken->load());
}

TEST_CASE("supervisor: whatever a dead batcher held, running or in its mailbox, ends once") {
  world w;
  w.submit_text("running", 400);
  for (int i = 0; i < 20; ++i) w.time.run_once();
  CHECK(w.sink->terminal() == 0);
  caf::anon_send_exit(w.batcher, caf::exit_reason::kill);
  w.submit_text("in its mailbox", 400);
  w.time.run();
  CHECK(w.sink->terminal() == 2);
  w.submit_text("after its death", 400);
  CHECK(w.sink->terminal() == 3);
  CHECK(w.metrics->requests_open.value() == 0);
  CHECK(w.metrics->finished_error.value() == 3);
}

TEST_CASE("supervisor: a stop after an actor has died still ends") {
  world w;
  caf::anon_send_exit(w.batcher, caf::exit_reason::kill);
  w.time.run();
  caf::anon_send_exit(w.supervisor, caf::exit_reason::user_shutdown);
  w.time.run();
  bool down = false;
  caf::scoped_actor self(w.system);
  self->monitor(w.supervisor);
  self->receive([&](const caf::down_msg&) { down = true; }, caf::after(0ms) >> [] {});
  CHECK(down);
}

namespace {

testing::lost_flags flags(int count) {
  testing::lost_flags out;
  for (int i = 0; i < count; ++i) out.push_back(std::make_shared<std::atomic<bool>>(false));
  return out;
}

}  // namespace

TEST_CASE("supervisor: every device has an executor, and requests go to all of them") {
  world w(testing::fake_model_on(flags(3)));
  CHECK(w.metrics->executor_up.value() == 3);
  std::vector<request_id> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(w.submit_text("hello " + std::to_string(i), 12));
  for (int i = 0; i < 12; ++i) w.time.run_once();
  for (int i = 0; i < 3; ++i) CHECK(w.pages->of(i).counts().used > 0);
  w.time.run();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    CHECK(w.sink->text(ids[i]) == testing::expected_text("hello " + std::to_string(i), 12));
  }
  CHECK(w.pages->counts().used == 0);
}

TEST_CASE("supervisor: a dead executor's requests go on at another device, without a wait") {
  world w(testing::fake_model_on(flags(2)));
  std::vector<request_id> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(w.submit_text("hello " + std::to_string(i), 40));
  for (int i = 0; i < 40; ++i) w.time.run_once();
  CHECK(w.pages->of(1).counts().used > 0);
  caf::anon_send(w.supervisor, restart_executor{1});
  w.time.run();  // no time passes, so it has no successor
  CHECK(w.metrics->executor_up.value() == 1);
  CHECK(w.sink->terminal() == 6);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    CHECK(w.sink->text(ids[i]) == testing::expected_text("hello " + std::to_string(i), 40));
  }
  CHECK(w.metrics->recovered.value() > 0);
  w.pass(10ms);
  CHECK(w.metrics->executor_up.value() == 2);
}

TEST_CASE("supervisor: a device that is lost for good is not tried again; the last one ends all") {
  const auto lost = flags(2);
  world w(testing::fake_model_on(lost));
  lost[0]->store(true);
  caf::anon_send(w.supervisor, restart_executor{0});
  w.time.run();
  for (int i = 0; i < 5; ++i) w.pass(1s);
  CHECK(w.metrics->executor_restarts.value() == 1);
  const auto id = w.submit_text("hello", 12);
  w.time.run();
  CHECK(w.sink->text(id) == testing::expected_text("hello", 12));
  w.submit_text("goodbye", 400);
  for (int i = 0; i < 20; ++i) w.time.run_once();
  lost[1]->store(true);
  caf::anon_send(w.supervisor, restart_executor{1});
  w.time.run();
  CHECK(w.sink->terminal() == 2);
  CHECK(std::holds_alternative<error_event>(w.sink->events().back().what));
}
