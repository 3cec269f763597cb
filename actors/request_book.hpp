// SPDX-License-Identifier: Apache-2.0
#pragma once
// Every accepted request from its first step to its terminal event: which sequences it has, what
// text they have produced, when they stop. The plain object inside the batcher actor: no thread, no
// clock (time is an argument), no CAF.
//
// Invariants: 1. every request that add() took ends with exactly one terminal event; 2. no event of
// a request follows its terminal event; 3. a sequence of the scheduler belongs to one live request.

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "actors/choice_stream.hpp"
#include "actors/engine.hpp"
#include "actors/request.hpp"
#include "actors/terminal_promise.hpp"
#include "base/counters.hpp"
#include "scheduler/device_plans.hpp"
#include "scheduler/staging.hpp"

namespace foretoken::actors {

using scheduler::time_point;

// A request with its prompt as tokens, ready to be scheduled.
struct accepted_request {
  request_id id{};
  std::shared_ptr<const generate_request> request;
  std::shared_ptr<const std::vector<token>> prompt;
  std::shared_ptr<event_sink> sink;
  cache::cache_namespace space{};
  std::uint64_t seed = 0;
  int max_tokens = 0;  // already cut to the context left
  time_point accepted{};
  terminal_promise ending;
};

struct book_limits {
  int crashes_max = 3;  // executor deaths without progress, the last alone, before a request fails
  std::chrono::milliseconds executor_wait_max{30'000};  // a request without any executor
};

class request_book {
 public:
  request_book(scheduler::device_plans& plans,
               std::shared_ptr<const tokenizer::tokenizer> words,
               counters& metrics,
               book_limits limits);
  ~request_book();  // abandon()

  // A request that cannot be scheduled ends at once with an error event.
  void add(accepted_request added, time_point now);
  void cancel(request_id id, time_point now);
  void cancel_all(time_point now);
  void fail_all(const error& failure, time_point now);
  std::optional<model::micro_batch> plan(int device, time_point now);
  // When the first of those in the last plan was accepted, if none of them was computed before;
  // else the beginning of time.
  time_point waited_since() const noexcept { return waited_since_; }
  void complete(int device, const model::step_result& done, time_point now);
  // `ordered`: it was killed by command, so no request is to blame. Otherwise a request fails when
  // it was the only one running there and has now met crashes_max deaths.
  void executor_lost(int device, time_point now, bool ordered = false);
  // `flights`: micro-batches that its device runs beside each other.
  void executor_up(int device, int flights = 1);
  // No executor will come up again: requests, those to come too, end at once.
  void expect_no_executor() { executor_wait_ = std::chrono::milliseconds(0); }
  // While no executor is up: ends every request that has waited for one as long as it may. Returns
  // when the next one will have; nothing when nobody waits or an executor is up.
  std::optional<time_point> end_stranded(time_point now);
  // Hands every event gathered since the last call to its sink, one call a sink.
  void deliver();
  // The end of everything: open requests end with an error event.
  void abandon();
  std::size_t open() const noexcept { return requests_.size(); }

 private:
  struct choice {
    choice_stream text;
    int generated = 0;
    bool ended = false;
    time_point last{};
    finish_reason reason = finish_reason::cancelled;
  };
  struct live_request {
    accepted_request what;
    std::vector<choice> choices;
    std::vector<sequence_id> sequences;
    int open_choices = 0;
    int completion_tokens = 0;
    int cached_tokens = -1;
    bool queued = true;    // no step has held it yet
    bool started = false;  // a token has come
  };
  using request_map = std::unordered_map<request_id, live_request>;

  void apply(live_request& live,
             std::size_t index,
             const scheduler::progress& step,
             time_point now);
  void take_token(live_request& live,
                  std::size_t index,
                  const model::sampled& next,
                  token_event& out,
                  time_point now);
  void end_choice(live_request& live, std::size_t index, finish_reason reason);
  void fail(request_id id, error failure, time_point now);
  void finish_if_done(request_id id, time_point now);
  void erase(request_map::iterator at);
  void emit(live_request& live, decltype(event::what) what);
  void note_first_step(const model::micro_batch& batch, time_point now);

  scheduler::device_plans& plans_;
  std::shared_ptr<const tokenizer::tokenizer> words_;
  counters& metrics_;
  book_limits limits_;
  request_map requests_;
  std::unordered_map<sequence_id, std::pair<request_id, std::size_t>> owners_;
  std::uint64_t last_sequence_ = 0;
  std::optional<time_point> without_executor_since_ = time_point{};  // no executor is up
  std::chrono::milliseconds executor_wait_;
  time_point waited_since_{};
  std::vector<std::pair<std::shared_ptr<event_sink>, std::vector<event>>> outbox_;
};

}  // namespace foretoken::actors
