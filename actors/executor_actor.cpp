// SPDX-License-Identifier: Apache-2.0
#include "actors/executor_actor.hpp"

#include "actors/mailbox.hpp"
#include "base/log.hpp"
#include "model/forward.hpp"

namespace foretoken::actors {
namespace {

class executor_state : public executor_actor::base {
 public:
  executor_state(caf::actor_config& config, executor_parts parts)
      : executor_actor::base(config), parts_(std::move(parts)) {}

  const char* name() const override { return "executor"; }

  behavior_type make_behavior() override {
    return {[this](const run_step& message) {
      parts_.metrics->mailbox_executor.add(-1);
      run(*message.batch);
    }};
  }

  void on_exit() override {
    parts_.batcher = nullptr;
    device_.reset();
  }

 private:
  // The device is made here, not in the constructor: this runs on the executor's own thread.
  status prepare() {
    if (device_) return {};
    auto made = parts_.make_device();
    if (!made) return made.error();
    device_ = std::move(made).value();
    return {};
  }

  void run(const model::micro_batch& batch) {
    const auto begun = std::chrono::steady_clock::now();
    const auto prepared = prepare();
    if (!prepared) return die(prepared.error());
    auto outcome = model::forward(*device_, batch);
    if (!outcome) return die(outcome.error());
    tell(parts_.metrics->mailbox_batcher, parts_.batcher,
         step_done{parts_.epoch,
                   std::make_shared<const model::step_result>(std::move(outcome).value()),
                   std::chrono::steady_clock::now() - begun});
  }

  void die(const error& why) {
    log::error("executor", "device failed: {}", to_string(why));
    quit(caf::make_error(caf::sec::runtime_error, to_string(why)));
  }

  executor_parts parts_;
  std::unique_ptr<model::ops> device_;
};

}  // namespace

executor_actor spawn_executor(caf::local_actor& parent, executor_parts parts, bool detached) {
  return detached ? parent.spawn<executor_state, caf::detached + caf::monitored>(std::move(parts))
                  : parent.spawn<executor_state, caf::monitored>(std::move(parts));
}

}  // namespace foretoken::actors
