// SPDX-License-Identifier: Apache-2.0
#include "actors/supervisor_actor.hpp"

#include <utility>

#include "actors/executor_actor.hpp"
#include "actors/mailbox.hpp"
#include "actors/restart_policy.hpp"
#include "base/log.hpp"

namespace foretoken::actors {
namespace {

// Far above what any device takes; one that hangs in its making is given up then.
constexpr std::chrono::seconds device_timeout{600};

class supervisor_state : public supervisor_actor::base {
 public:
  supervisor_state(caf::actor_config& config, supervisor_parts parts)
      : supervisor_actor::base(config),
        parts_(std::move(parts)),
        restarts_(parts_.chosen->restart_backoff, parts_.chosen->restart_backoff_max) {}

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
        [this](const await_executor&) { return await(); },
    };
  }

  void on_exit() override {
    answer({false, "the engine stopped"});
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
    request(executor_, device_timeout, prepare_device{})
        .then([this, epoch](device_ready) { on_up(epoch); },
              [this, epoch](const caf::error& why) {  // every other failure comes as its death
                if (why == caf::sec::request_timeout && epoch == epoch_ && executor_)
                  send_exit(executor_, why);
              });
  }

  // Nobody hears of an executor before its device exists.
  void on_up(std::uint64_t epoch) {
    if (epoch != epoch_ || !executor_ || !parts_.batcher || stopping_) return;
    up_ = true;
    restarts_.came_up(clock().now());
    parts_.metrics->executor_up.set(1);
    if (restarts_.deaths() > 0) log::info("supervisor", "an executor is up again");
    tell(parts_.metrics->mailbox_batcher, parts_.batcher, executor_up{epoch, executor_});
    answer({true, {}});
  }

  caf::result<start_outcome> await() {
    if (up_) return start_outcome{true, {}};
    waiting_.push_back(make_response_promise<start_outcome>());
    return waiting_.back();
  }

  void answer(const start_outcome& outcome) {
    for (auto& each : std::exchange(waiting_, {})) each.deliver(outcome);
  }

  void on_down(const caf::down_msg& down) {
    if (executor_ && down.source == executor_.address()) {
      executor_ = nullptr;
      parts_.metrics->executor_up.set(0);
      if (!stopping_) return schedule_restart(down.reason);
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

  // A device's own words, when there are any.
  std::string text_of(const caf::error& reason) {
    const auto& words = reason.context();
    return words.match_elements<std::string>() ? words.get_as<std::string>(0)
                                               : system().render(reason);
  }

  void schedule_restart(const caf::error& reason) {
    if (!parts_.batcher) return;
    const bool ordered = reason == caf::exit_reason::kill;
    const bool gone = parts_.model->device_gone && parts_.model->device_gone();
    if (std::exchange(up_, false) || gone)
      tell(parts_.metrics->mailbox_batcher, parts_.batcher, executor_lost{epoch_, ordered, gone});
    parts_.metrics->executor_restarts.add();
    const auto next = restarts_.died(clock().now(), ordered);
    const auto why = ordered ? std::string("by command") : text_of(reason);
    if (next.alarm) {
      log::error("supervisor", "the executor died {} times in a row: {}", next.deaths, why);
      answer({false, why});
    }
    log::warn("supervisor", "executor down ({}); a new one starts in {} ms", why,
              next.wait.count());
    delayed_send(this, next.wait, executor_due{});
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
  bool up_ = false;  // its device exists and the batcher knows it
  restart_policy restarts_;
  std::vector<caf::typed_response_promise<start_outcome>> waiting_;
  bool stopping_ = false;
  int awaited_ = 0;
};

}  // namespace

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_parts parts) {
  return system.spawn<supervisor_state>(std::move(parts));
}

}  // namespace foretoken::actors
