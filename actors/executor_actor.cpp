// SPDX-License-Identifier: Apache-2.0
#include "actors/executor_actor.hpp"

#include <algorithm>
#include <deque>
#include <vector>

#include "actors/mailbox.hpp"
#include "base/assert.hpp"
#include "base/log.hpp"
#include "model/forward.hpp"

namespace foretoken::actors {
namespace {

constexpr std::chrono::milliseconds worth_a_line{10};  // a GPU records steps meanwhile

class executor_state : public executor_actor::base {
 public:
  executor_state(caf::actor_config& config, executor_parts parts)
      : executor_actor::base(config), parts_(std::move(parts)) {}

  const char* name() const override { return "executor"; }

  behavior_type make_behavior() override {
    set_exception_handler([](std::exception_ptr& thrown) { return what_of(thrown); });
    return {
        [this](const prepare_device&) { return prepare(); },
        [this](const run_step& message) {
          waiting_.push_back(message);
          start_waiting();
        },
        [this](const look_at_flights&) {
          looking_ = false;
          for (place& each : places_) {
            if (each.batch && each.device->done()) finish(each);
          }
          start_waiting();
        },
    };
  }

  void on_exit() override {
    parts_.batcher = nullptr;
    while (!places_.empty()) places_.pop_back();  // the first has the pages of all
  }

 private:
  // For one step at a time; as many as the device runs beside each other.
  struct place {
    std::unique_ptr<model::ops> device;
    std::shared_ptr<const model::micro_batch> batch;  // of the step under way
    model::step_result result;
    time_point begun{};
  };

  // Not in the constructor: this runs on the executor's own thread.
  caf::result<device_ready> prepare() {
    const auto begun = clock().now();
    auto made = parts_.make_device();
    if (!made) return die(made.error());
    const int flights = (*made)->flights();
    places_.resize(static_cast<std::size_t>(flights));
    places_.front().device = std::move(made).value();
    for (std::size_t i = 1; i < places_.size(); ++i) {
      auto another = places_.front().device->beside();
      if (!another) return die(another.error());
      places_[i].device = std::move(another).value();
    }
    idle_since_ = clock().now();
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(idle_since_ - begun);
    if (took >= worth_a_line) {
      log::info("executor", "device {} was made in {} ms; steps at once: {}", parts_.device,
                took.count(), flights);
    }
    return device_ready{flights};
  }

  bool busy() const {
    return std::any_of(places_.begin(), places_.end(),
                       [](const place& each) { return each.batch != nullptr; });
  }

  // The scheduler's choice: the places take different numbers of rows.
  place& place_of(const model::micro_batch& batch) {
    FORETOKEN_ASSERT(batch.place >= 0 && batch.place < static_cast<int>(places_.size()));
    return places_[static_cast<std::size_t>(batch.place)];
  }

  void start_waiting() {
    while (!waiting_.empty()) {
      place& at = place_of(*waiting_.front().batch);
      if (at.batch) break;
      const run_step next = std::move(waiting_.front());
      waiting_.pop_front();
      if (!start(at, next)) return;
    }
    if (looking_) return;
    if (!busy()) return look_out();
    looking_ = true;
    send(this, look_at_flights{});
  }

  // Until the next message, for a while: waking this thread takes tens of microseconds.
  void look_out() {
    const auto until = clock().now() + parts_.stay_awake;
    while (mailbox().empty() && clock().now() < until) {
    }
  }

  // False: the device failed.
  bool start(place& at, const run_step& message) {
    const auto idle = !busy();
    at.begun = clock().now();
    at.batch = message.batch;
    at.result = {};
    if (const status queued = model::queue(*at.device, *at.batch, at.result); !queued) {
      die(queued.error());
      return false;
    }
    const auto gap = at.begun - std::max(idle_since_, message.waited_since) + at.result.handed_over;
    parts_.metrics->step_gap.observe(
        idle ? std::max(0.0, std::chrono::duration<double>(gap).count()) : 0.0);
    return places_.size() > 1 || finish(at);  // nothing to look after meanwhile
  }

  bool finish(place& at) {
    if (const status finished = at.device->finish(at.result); !finished) {
      die(finished.error());
      return false;
    }
    const auto ended = clock().now();
    at.batch = nullptr;
    if (!busy()) idle_since_ = ended;
    tell(parts_.metrics->mailbox_batcher, parts_.batcher,
         step_done{parts_.device, parts_.epoch,
                   std::make_shared<const model::step_result>(std::move(at.result)),
                   ended - at.begun, ended});
    return true;
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
  std::vector<place> places_;
  std::deque<run_step> waiting_;
  bool looking_ = false;     // a look_at_flights is on its way
  time_point idle_since_{};  // the last step ended, or the device came up
};

}  // namespace

executor_actor spawn_executor(caf::local_actor& parent, executor_parts parts, bool detached) {
  return detached ? parent.spawn<executor_state, caf::detached + caf::monitored>(std::move(parts))
                  : parent.spawn<executor_state, caf::monitored>(std::move(parts));
}

}  // namespace foretoken::actors
