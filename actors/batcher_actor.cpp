// SPDX-License-Identifier: Apache-2.0
#include "actors/batcher_actor.hpp"

#include <algorithm>
#include <optional>

#include "actors/mailbox.hpp"
#include "base/log.hpp"

namespace foretoken::actors {
namespace {

// The longest that a timer outlives the batcher, which its message keeps from being freed.
constexpr std::chrono::seconds timer_max{1};

class batcher_state : public batcher_actor::base {
 public:
  batcher_state(caf::actor_config& config, batcher_parts parts)
      : batcher_actor::base(config),
        parts_(std::move(parts)),
        plans_(parts_.chosen->scheduler, *parts_.pages),
        book_(plans_,
              parts_.model->words,
              *parts_.metrics,
              {parts_.chosen->crashes_max, parts_.chosen->executor_wait_max}),
        seats_(static_cast<std::size_t>(plans_.devices())) {}

  const char* name() const override { return "batcher"; }

  behavior_type make_behavior() override {
    return {
        [this](const submit& message) {
          handled();
          book_.add(std::move(*message.request), clock_now());
          turn();
        },
        [this](const cancel_request& message) {
          handled();
          book_.cancel(message.id, clock_now());
          turn();
        },
        [this](const cancel_every_request&) {
          handled();
          book_.cancel_all(clock_now());
          turn();
        },
        [this](const step_done& message) {
          handled();
          seat& here = seat_of(message.device);
          if (message.epoch != here.epoch) return turn();  // from an executor that is gone
          here.moved = clock_now();
          parts_.metrics->step_time.observe(std::chrono::duration<double>(message.took).count());
          if (!plans_.ready(message.device)) here.staging.nobody(message.ended);
          here.staging.ended(message.result->step, message.ended);
          book_.complete(message.device, *message.result, clock_now());
          turn();
        },
        [this](const executor_up& message) {
          handled();
          seat& here = seat_of(message.device);
          here.epoch = message.epoch;
          here.executor = message.executor;
          here.staging.set_flights(message.flights, parts_.chosen->scheduler.beside_rows_max);
          book_.executor_up(message.device, message.flights);
          turn();
        },
        [this](const executor_lost& message) {
          handled();
          if (message.for_good) book_.expect_no_executor();
          seat& here = seat_of(message.device);
          if (here.executor && message.epoch == here.epoch) {
            here.executor = nullptr;
            here.staging.lost();
            book_.executor_lost(message.device, clock_now(), message.ordered);
          }
          turn();
        },
        [this](const staging_due&) {
          armed_.reset();
          turn();
        },
        [this](const look_around&) {
          watching_ = false;
          turn();
        },
    };
  }

  void on_exit() override {
    for (seat& each : seats_) each.executor = nullptr;  // a kept handle would keep its thread
    book_.abandon();
  }

 private:
  // CAF's clock: the steady one, and virtual time under a test's coordinator.
  time_point clock_now() { return clock().now(); }
  void handled() { parts_.metrics->mailbox_batcher.add(-1); }

  void turn() {
    advance();
    if (parts_.chosen->stay_awake.count() > 0) look_out();
  }

  // Until the next message, for a while, and for a step that is due so soon that it has no timer.
  void look_out() {
    const auto a_while = parts_.chosen->stay_awake;
    auto until = clock_now() + a_while;
    while (mailbox().empty()) {
      const auto now = clock_now();
      if (armed_ && *armed_ <= now) {
        armed_.reset();
        advance();
        until = clock_now() + a_while;
      } else if (now >= until && (!armed_ || *armed_ - now >= a_while)) {
        return;
      }
    }
  }

  // The next step leaves before the events of the last one are handed out.
  void advance() {
    for (int i = 0; i < plans_.devices(); ++i) {
      while (seat_of(i).executor && send_step(i)) {
      }
    }
    watch();
    book_.deliver();
    publish();
  }

  // The next micro-batch leaves; false: there is no credit, nobody to compute, or it is too early.
  bool send_step(int device) {
    const auto now = clock_now();
    seat& here = seat_of(device);
    const bool ready = plans_.ready(device);
    if (ready && parts_.chosen->scheduler.stage_late && here.staging.due() > now) {
      call_at(*here.staging.due(), now);
      return false;
    }
    auto batch = ready ? book_.plan(device, now) : std::nullopt;
    if (!batch) {
      here.staging.nobody(now);
      return false;
    }
    if (plans_.in_flight(device) == 1) here.moved = now;
    const auto since = book_.waited_since();
    const int rows = model::rows_of(*batch);
    const auto step = batch->step;
    caf::anon_send(here.executor,
                   run_step{std::make_shared<const model::micro_batch>(*std::move(batch)), since});
    here.staging.sent(step, rows, since, clock_now());
    return true;
  }

  void call_at(time_point due, time_point now) {
    if (armed_ && *armed_ <= due) return;
    armed_ = due;
    if (due - now < parts_.chosen->stay_awake) return;  // look_out() sees it
    delayed_send(this, std::min<time_point::duration>(due - now, timer_max), staging_due{});
  }

  // One timer, while somebody waits: requests for an executor, or the executor for its step.
  void watch() {
    const auto now = clock_now();
    bool computing = false;
    bool hangs = false;
    for (int i = 0; i < plans_.devices(); ++i) {
      const seat& here = seat_of(i);
      if (!here.executor || plans_.in_flight(i) == 0) continue;
      computing = true;
      hangs = hangs || now - here.moved >= parts_.chosen->step_time_max;
    }
    note_hanging(hangs);
    const auto due = book_.end_stranded(now);
    if (watching_ || !(computing || due)) return;
    watching_ = true;
    delayed_send(this, due ? std::min<time_point::duration>(*due - now, timer_max) : timer_max,
                 look_around{});
  }

  // A thread cannot be ended from outside, so nothing here can replace it: the requests end, and
  // the engine says that it is not healthy until the step comes back after all.
  void note_hanging(bool hangs) {
    if (parts_.hangs->exchange(hangs) == hangs) return;
    const auto up = std::count_if(seats_.begin(), seats_.end(),
                                  [](const seat& each) { return bool(each.executor); });
    parts_.metrics->executor_up.set(hangs ? 0 : up);
    if (!hangs) return;
    log::error(
        "batcher", "the executor has not finished a step in {} s",
        std::chrono::duration_cast<std::chrono::seconds>(parts_.chosen->step_time_max).count());
    book_.fail_all({errc::device, "the executor does not finish its step; try again later"},
                   clock_now());
  }

  void publish() {
    const auto stats = plans_.stats();
    parts_.metrics->sequences_waiting.set(stats.waiting);
    parts_.metrics->sequences_running.set(stats.running);
    int staged = 0;
    for (int i = 0; i < plans_.devices(); ++i) staged += std::max(plans_.in_flight(i) - 1, 0);
    parts_.metrics->mailbox_executor.set(staged);
    parts_.metrics->preemptions.add(stats.preemptions - preemptions_);
    parts_.metrics->recovered.add(stats.recovered - recovered_);
    preemptions_ = stats.preemptions;
    recovered_ = stats.recovered;
    if (stats.running < running_)
      tell(parts_.metrics->mailbox_cache_manager, parts_.cache_manager, pages_released{});
    running_ = stats.running;
  }

  // One device's place: executors come and go.
  struct seat {
    executor_actor executor;
    std::uint64_t epoch = 0;
    scheduler::staging staging;
    time_point moved{};  // a step came back, or the first one left
  };
  seat& seat_of(int device) { return seats_.at(static_cast<std::size_t>(device)); }

  batcher_parts parts_;
  scheduler::device_plans plans_;
  request_book book_;
  std::vector<seat> seats_;
  std::optional<time_point> armed_;  // when a staging_due will come, or look_out() sees it
  std::uint64_t preemptions_ = 0, recovered_ = 0;
  int running_ = 0;
  bool watching_ = false;
};

}  // namespace

batcher_actor spawn_batcher(caf::actor_system& system, batcher_parts parts) {
  if (parts.chosen->stay_awake.count() > 0) {
    return system.spawn<batcher_state, caf::detached>(std::move(parts));
  }
  return system.spawn<batcher_state>(std::move(parts));
}

}  // namespace foretoken::actors
