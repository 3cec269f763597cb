// SPDX-License-Identifier: Apache-2.0
#include "actors/supervisor_actor.hpp"

#include <algorithm>

#include "actors/executor_actor.hpp"
#include "actors/mailbox.hpp"
#include "base/log.hpp"

namespace foretoken::actors {
namespace {

class supervisor_state : public supervisor_actor::base {
 public:
  supervisor_state(caf::actor_config& config, supervisor_parts parts)
      : supervisor_actor::base(config),
        parts_(std::move(parts)),
        backoff_(parts_.chosen->restart_backoff) {}

  const char* name() const override { return "supervisor"; }

  behavior_type make_behavior() override {
    monitor(parts_.batcher);
    monitor(parts_.cache_manager);
    if (parts_.tokenizer) monitor(parts_.tokenizer);
    set_down_handler([this](const caf::down_msg& down) { on_down(down); });
    set_exit_handler([this](const caf::exit_msg& exit) { on_stop(exit); });
    start_executor();
    return {
        [this](const restart_executor&) {
          if (executor_) send_exit(executor_, caf::exit_reason::kill);
        },
        [this](const executor_due&) { start_executor(); },
        [](const ping&) { return pong{}; },
    };
  }

  void on_exit() override {
    executor_ = nullptr;
    parts_.batcher = nullptr;
    parts_.tokenizer = nullptr;
    parts_.cache_manager = nullptr;
    parts_.metrics_keeper = nullptr;
  }

 private:
  void start_executor() {
    if (stopping_ || !parts_.batcher) return;
    const auto epoch = ++epoch_;
    executor_ =
        spawn_executor(*this, {epoch, parts_.model->make_device, parts_.batcher, parts_.metrics},
                       parts_.detached_executor);
    started_ = std::chrono::steady_clock::now();
    parts_.metrics->mailbox_executor.set(0);
    parts_.metrics->executor_up.set(1);
    tell(parts_.metrics->mailbox_batcher, parts_.batcher, executor_up{epoch, executor_});
  }

  void on_down(const caf::down_msg& down) {
    if (executor_ && down.source == executor_.address()) {
      executor_ = nullptr;
      parts_.metrics->executor_up.set(0);
      if (!stopping_) return schedule_restart(down.reason == caf::exit_reason::kill);
    } else if (!stopping_) {
      log::error("supervisor", "an actor died: {}", system().render(down.reason));
      parts_.broken->store(true);
    }
    forget(parts_.batcher, down);
    forget(parts_.tokenizer, down);
    forget(parts_.cache_manager, down);
    if (stopping_ && --awaited_ == 0) quit(caf::exit_reason::user_shutdown);
  }

  // Who is dead is not waited for when everybody is told to stop.
  template <class Handle>
  static void forget(Handle& handle, const caf::down_msg& down) {
    if (handle && down.source == handle.address()) handle = nullptr;
  }

  // The wait doubles with each death in a row and starts over after a quiet second.
  void schedule_restart(bool ordered) {
    if (!parts_.batcher) return;
    tell(parts_.metrics->mailbox_batcher, parts_.batcher, executor_lost{epoch_, ordered});
    parts_.metrics->executor_restarts.add();
    if (std::chrono::steady_clock::now() - started_ > std::chrono::seconds(1))
      backoff_ = parts_.chosen->restart_backoff;
    log::warn("supervisor", "executor down; a new one starts in {} ms", backoff_.count());
    delayed_send(this, backoff_, executor_due{});
    backoff_ = std::min(backoff_ * 2, parts_.chosen->restart_backoff_max);
  }

  void on_stop(const caf::exit_msg& exit) {
    if (stopping_) return;
    stopping_ = true;
    const auto end = [&](const auto& child) {
      if (!child) return;
      ++awaited_;
      send_exit(child, exit.reason);
    };
    end(executor_);
    end(parts_.tokenizer);
    end(parts_.batcher);
    end(parts_.cache_manager);
    if (parts_.metrics_keeper) send_exit(parts_.metrics_keeper, exit.reason);
    if (awaited_ == 0) quit(caf::exit_reason::user_shutdown);
  }

  supervisor_parts parts_;
  executor_actor executor_;
  std::uint64_t epoch_ = 0;
  std::chrono::milliseconds backoff_;
  std::chrono::steady_clock::time_point started_{};
  bool stopping_ = false;
  int awaited_ = 0;
};

}  // namespace

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_parts parts) {
  return system.spawn<supervisor_state>(std::move(parts));
}

}  // namespace foretoken::actors
