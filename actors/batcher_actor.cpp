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
              {parts_.chosen->crashes_max, parts_.chosen->executor_wait_max}) {}

  const char* name() const override { return "batcher"; }

  behavior_type make_behavior() override {
    return {
        [this](const submit& message) {
          handled();
          book_.add(std::move(*message.request), clock_now());
          advance();
        },
        [this](const cancel_request& message) {
          handled();
          book_.cancel(message.id, clock_now());
          advance();
        },
        [this](const cancel_every_request&) {
          handled();
          book_.cancel_all(clock_now());
          advance();
        },
        [this](const step_done& message) {
          handled();
          if (message.epoch != epoch_) return;  // from an executor that is gone
          moved_ = clock_now();
          parts_.metrics->step_time.observe(std::chrono::duration<double>(message.took).count());
          if (!plans_.ready()) staging_.nobody(message.ended);
          staging_.ended(message.ended);
          book_.complete(*message.result, clock_now());
          advance();
        },
        [this](const executor_up& message) {
          handled();
          epoch_ = message.epoch;
          executor_ = message.executor;
          parts_.metrics->mailbox_executor.set(0);  // its predecessor's died with it
          book_.executor_up();
          advance();
        },
        [this](const executor_lost& message) {
          handled();
          if (message.for_good) book_.expect_no_executor();
          if (executor_ && message.epoch == epoch_) {
            executor_ = nullptr;
            staging_.lost();
            book_.executor_lost(clock_now(), message.ordered);
          }
          advance();
        },
        [this](const staging_due&) {
          armed_.reset();
          advance();
        },
        [this](const look_around&) {
          watching_ = false;
          advance();
        },
    };
  }

  void on_exit() override {
    executor_ = nullptr;  // a kept handle would keep its thread
    book_.abandon();
  }

 private:
  // CAF's clock: the steady one, and virtual time under a test's coordinator.
  time_point clock_now() { return clock().now(); }
  void handled() { parts_.metrics->mailbox_batcher.add(-1); }

  // The next step leaves before the events of the last one are handed out.
  void advance() {
    while (executor_ && send_step()) {
    }
    watch();
    book_.deliver();
    publish();
  }

  // The next micro-batch leaves; false: there is no credit, nobody to compute, or it is too early.
  bool send_step() {
    const auto now = clock_now();
    const bool ready = plans_.ready();
    if (ready && parts_.chosen->scheduler.stage_late && staging_.due() > now) {
      call_at(*staging_.due(), now);
      return false;
    }
    auto batch = ready ? book_.plan(now) : std::nullopt;
    if (!batch) {
      staging_.nobody(now);
      return false;
    }
    if (plans_.stats().in_flight == 1) moved_ = now;
    const auto since = book_.waited_since();
    const int rows = model::rows_of(*batch);
    tell(parts_.metrics->mailbox_executor, executor_,
         run_step{std::make_shared<const model::micro_batch>(*std::move(batch)), since});
    staging_.sent(rows, since, clock_now());
    return true;
  }

  void call_at(time_point due, time_point now) {
    if (armed_ && *armed_ <= due) return;
    armed_ = due;
    delayed_send(this, std::min<time_point::duration>(due - now, timer_max), staging_due{});
  }

  // One timer, while somebody waits: requests for an executor, or the executor for its step.
  void watch() {
    const auto now = clock_now();
    const bool computing = executor_ && plans_.stats().in_flight > 0;
    note_hanging(computing && now - moved_ >= parts_.chosen->step_time_max);
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
    parts_.metrics->executor_up.set(executor_ && !hangs ? 1 : 0);
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
    parts_.metrics->preemptions.add(stats.preemptions - preemptions_);
    parts_.metrics->recovered.add(stats.recovered - recovered_);
    preemptions_ = stats.preemptions;
    recovered_ = stats.recovered;
    if (stats.running < running_)
      tell(parts_.metrics->mailbox_cache_manager, parts_.cache_manager, pages_released{});
    running_ = stats.running;
  }

  batcher_parts parts_;
  scheduler::batch_scheduler plans_;
  request_book book_;
  scheduler::staging staging_;
  std::optional<time_point> armed_;  // when a staging_due will come
  executor_actor executor_;
  std::uint64_t epoch_ = 0;
  std::uint64_t preemptions_ = 0, recovered_ = 0;
  int running_ = 0;
  bool watching_ = false;
  time_point moved_{};  // a step came back, or the first one left
};

}  // namespace

batcher_actor spawn_batcher(caf::actor_system& system, batcher_parts parts) {
  return system.spawn<batcher_state>(std::move(parts));
}

}  // namespace foretoken::actors
