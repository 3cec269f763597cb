// SPDX-License-Identifier: Apache-2.0
#include "actors/executor_actor.hpp"

#include <algorithm>

#include "actors/mailbox.hpp"
#include "base/assert.hpp"
#include "model/forward.hpp"

namespace foretoken::actors {
namespace {

class executor_state : public executor_actor::base {
 public:
  executor_state(caf::actor_config& config, executor_parts parts)
      : executor_actor::base(config), parts_(std::move(parts)) {}

  const char* name() const override { return "executor"; }

  behavior_type make_behavior() override {
    set_exception_handler([](std::exception_ptr& thrown) { return what_of(thrown); });
    return {
        [this](const prepare_device&) { return prepare(); },
        [this](const run_step& message) { run(message); },
    };
  }

  void on_exit() override {
    parts_.batcher = nullptr;
    device_.reset();
  }

 private:
  // Not in the constructor: this runs on the executor's own thread.
  caf::result<device_ready> prepare() {
    auto made = parts_.make_device();
    if (!made) return die(made.error());
    device_ = std::move(made).value();
    idle_since_ = clock().now();
    return device_ready{};
  }

  void run(const run_step& message) {
    const auto begun = clock().now();
    FORETOKEN_ASSERT(device_ != nullptr);
    auto outcome = model::forward(*device_, *message.batch);
    if (!outcome) {
      die(outcome.error());
      return;
    }
    const auto ended = clock().now();
    const auto gap =
        begun - std::max(idle_since_, message.waited_since) + outcome.value().handed_over;
    parts_.metrics->step_gap.observe(std::max(0.0, std::chrono::duration<double>(gap).count()));
    idle_since_ = ended;
    tell(parts_.metrics->mailbox_batcher, parts_.batcher,
         step_done{parts_.device, parts_.epoch,
                   std::make_shared<const model::step_result>(std::move(outcome).value()),
                   ended - begun, ended});
  }

  caf::error die(const error& why) {
    auto reason = caf::make_error(caf::sec::runtime_error, to_string(why));
    quit(reason);
    return reason;
  }

  // A device that throws has failed like one that says so.
  static caf::error what_of(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& why) {
      return caf::make_error(caf::sec::runtime_error, std::string(why.what()));
    } catch (...) {
      return caf::make_error(caf::sec::runtime_error, std::string("an unknown exception"));
    }
  }

  executor_parts parts_;
  std::unique_ptr<model::ops> device_;
  time_point idle_since_{};  // the last step ended, or the device came up
};

}  // namespace

executor_actor spawn_executor(caf::local_actor& parent, executor_parts parts, bool detached) {
  return detached ? parent.spawn<executor_state, caf::detached + caf::monitored>(std::move(parts))
                  : parent.spawn<executor_state, caf::monitored>(std::move(parts));
}

}  // namespace foretoken::actors
