// SPDX-License-Identifier: Apache-2.0
#include "actors/supervisor_actor.hpp"

#include <algorithm>
#include <utility>
#include <vector>

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
        children_(parts_.model->devices.size(), child(*parts_.chosen)) {}

  const char* name() const override { return "supervisor"; }

  behavior_type make_behavior() override {
    monitor(parts_.batcher);
    monitor(parts_.cache_manager);
    if (parts_.tokenizer) monitor(parts_.tokenizer);
    set_down_handler([this](const caf::down_msg& down) { on_down(down); });
    set_exit_handler([this](const caf::exit_msg& exit) { on_stop(exit); });
    for (int i = 0; i < devices(); ++i) start_executor(i);
    return {
        [this](const restart_executor& message) {
          if (message.device < 0 || message.device >= devices()) return;  // anybody may send it
          const auto& executor = child_of(message.device).executor;
          if (executor) send_exit(executor, caf::exit_reason::kill);
        },
        [this](const executor_due& message) { start_executor(message.device); },
        [this](const await_executor&) { return await(); },
    };
  }

  void on_exit() override {
    answer({false, "the engine stopped"});
    for (child& each : children_) each.executor = nullptr;
    parts_.batcher = nullptr;
    parts_.tokenizer = nullptr;
    parts_.cache_manager = nullptr;
    parts_.metrics_keeper = nullptr;
  }

 private:
  // One device's executor, of which there may be none.
  struct child {
    explicit child(const options& chosen)
        : restarts(chosen.restart_backoff, chosen.restart_backoff_max) {}
    executor_actor executor;
    std::uint64_t epoch = 0;
    bool up = false;  // its device exists and the batcher knows it
    restart_policy restarts;
  };
  child& child_of(int device) { return children_.at(static_cast<std::size_t>(device)); }
  int devices() const noexcept { return static_cast<int>(children_.size()); }
  void count_up() {
    const auto up = std::count_if(children_.begin(), children_.end(),
                                  [](const child& each) { return each.up; });
    parts_.metrics->executor_up.set(up);
  }

  void start_executor(int device) {
    if (stopping_ || !parts_.batcher) return;
    child& here = child_of(device);
    const auto epoch = ++here.epoch;
    const auto& make = parts_.model->devices.at(static_cast<std::size_t>(device)).make;
    here.executor = spawn_executor(
        *this, {device, epoch, make, parts_.batcher, parts_.metrics, parts_.chosen->stay_awake},
        parts_.detached_executor);
    request(here.executor, device_timeout, prepare_device{})
        .then([this, device, epoch](device_ready ready) { on_up(device, epoch, ready.flights); },
              [this, device, epoch](const caf::error& why) {  // other failures come as its death
                const child& asked = child_of(device);
                if (why == caf::sec::request_timeout && epoch == asked.epoch && asked.executor)
                  send_exit(asked.executor, why);
              });
  }

  // Nobody hears of an executor before its device exists.
  void on_up(int device, std::uint64_t epoch, int flights) {
    child& here = child_of(device);
    if (epoch != here.epoch || !here.executor || !parts_.batcher || stopping_) return;
    here.up = true;
    here.restarts.came_up(clock().now());
    count_up();
    if (here.restarts.deaths() > 0) log::info("supervisor", "an executor is up again");
    tell(parts_.metrics->mailbox_batcher, parts_.batcher,
         executor_up{device, epoch, here.executor, flights});
    answer({true, {}});
  }

  caf::result<start_outcome> await() {
    const auto up = [](const child& each) { return each.up; };
    if (std::any_of(children_.begin(), children_.end(), up)) return start_outcome{true, {}};
    waiting_.push_back(make_response_promise<start_outcome>());
    return waiting_.back();
  }

  void answer(const start_outcome& outcome) {
    for (auto& each : std::exchange(waiting_, {})) each.deliver(outcome);
  }

  void on_down(const caf::down_msg& down) {
    const auto at = std::find_if(children_.begin(), children_.end(), [&](const child& each) {
      return each.executor && down.source == each.executor.address();
    });
    if (at != children_.end()) {
      at->executor = nullptr;
      const bool was_up = std::exchange(at->up, false);
      count_up();
      const auto device = static_cast<int>(at - children_.begin());
      if (!stopping_) return schedule_restart(device, was_up, down.reason);
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

  bool gone(int device) const {
    const auto& asked = parts_.model->devices.at(static_cast<std::size_t>(device)).gone;
    return asked && asked();
  }
  bool all_gone() const {
    for (int i = 0; i < devices(); ++i) {
      if (!gone(i)) return false;
    }
    return true;
  }

  void schedule_restart(int device, bool was_up, const caf::error& reason) {
    child& here = child_of(device);
    if (!parts_.batcher) return;
    const bool ordered = reason == caf::exit_reason::kill;
    const bool for_good = all_gone();
    if (was_up || for_good) {
      tell(parts_.metrics->mailbox_batcher, parts_.batcher,
           executor_lost{device, here.epoch, ordered, for_good});
    }
    parts_.metrics->executor_restarts.add();
    const auto next = here.restarts.died(clock().now(), ordered);
    const auto why = ordered ? std::string("by command") : text_of(reason);
    if (for_good || nobody_comes()) answer({false, why});
    if (gone(device)) {
      log::error("supervisor", "device {} is lost until the process is started anew: {}", device,
                 why);
      return;
    }
    if (next.alarm) {
      log::error("supervisor", "the executor of device {} died {} times in a row: {}", device,
                 next.deaths, why);
    }
    log::warn("supervisor", "executor of device {} down ({}); a new one starts in {} ms", device,
              why, next.wait.count());
    delayed_send(this, next.wait, executor_due{device});
  }

  // Every executor is gone, or has died so often that no other is to be expected soon.
  bool nobody_comes() const {
    for (int i = 0; i < devices(); ++i) {
      const int deaths = children_[static_cast<std::size_t>(i)].restarts.deaths();
      if (!gone(i) && deaths < restart_policy::alarm_deaths) return false;
    }
    return true;
  }

  void on_stop(const caf::exit_msg& exit) {
    if (stopping_) return;
    stopping_ = true;
    const auto end = [&](const auto& actor) {
      if (!actor) return;
      ++awaited_;
      send_exit(actor, exit.reason);
    };
    for (const child& each : children_) end(each.executor);
    end(parts_.tokenizer);
    end(parts_.batcher);
    end(parts_.cache_manager);
    if (parts_.metrics_keeper) send_exit(parts_.metrics_keeper, exit.reason);
    if (awaited_ == 0) quit(caf::exit_reason::user_shutdown);
  }

  supervisor_parts parts_;
  std::vector<child> children_;  // one a device
  std::vector<caf::typed_response_promise<start_outcome>> waiting_;
  bool stopping_ = false;
  int awaited_ = 0;
};

}  // namespace

supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_parts parts) {
  return system.spawn<supervisor_state>(std::move(parts));
}

}  // namespace foretoken::actors
