// SPDX-License-Identifier: Apache-2.0
#pragma once
// Decides what each step computes: admission, continuous batching, chunked prefill, preemption.
// A plain object: no thread, no clock, no device. The same calls give the same plans.
//
// Life of a sequence: waiting -> running (has pages) -> finished. A running sequence that no longer
// fits is preempted: back to the front of waiting, recomputed from prompt + generated later; it is
// never dropped. Each sequence is in at most one micro-batch in flight, except that consecutive
// prefill chunks may follow each other.
//
// Micro-batches in flight run in order, or beside each other (set_flights). At most one of them
// holds decode rows (so decoding sequences merge into one batch); the others are for prefill chunks
// staged behind it or computed beside it. Those beside each other have places: place 0 takes
// step_tokens_max rows, the others beside_rows_max. Few rows leave place 0 free while another place
// is; while it is taken no step is planned that needs it. Behind decode rows prompts have it that
// need it.
//
// Suspects: when the device dies, one of the sequences it was running may be the cause. Each of
// them is computed alone in its micro-batches until it is past the point where the device died;
// these take turns with the micro-batches of everybody else. So a death in a micro-batch of one
// names the cause, and nobody is blamed for another's.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "cache/kv_cache.hpp"
#include "model/micro_batch.hpp"
#include "scheduler/options.hpp"

namespace foretoken::scheduler {

struct new_sequence {
  sequence_id id{};
  cache::cache_namespace space{};
  std::shared_ptr<const std::vector<token>> prompt;  // >= 1 token
  std::shared_ptr<const model::sampling_parameters> sampling;
  int max_tokens = 1;  // 0 = compute (and score) the prompt only; prompt + max_tokens <= context
  bool score_prompt = false;  // echo with logprobs: every prompt position is computed and scored
  std::uint64_t arrival = 0;  // rises with each, over all schedulers between which sequences move
};

struct sequence;  // sequences.hpp

// What a finished step brought one sequence.
struct progress {
  sequence_id id{};
  bool prompt_done = false;            // the step completed the prompt (first time only)
  std::vector<model::sampled> scores;  // of prompt tokens, in order, continuing where it left off
  std::optional<model::sampled> next;  // a new token; it is already part of the sequence
};

// A sequence that the device was running when it died.
struct suspect {
  sequence_id id{};
  int deaths = 0;      // this one and those before it at which the sequence had come no further
  bool alone = false;  // nothing else ran: it is the cause
};

struct scheduler_stats {
  int waiting = 0, running = 0;
  int in_flight = 0;  // micro-batches
  std::uint64_t preemptions = 0, recovered = 0;
  std::uint64_t prompt_tokens_computed = 0, prompt_tokens_cached = 0;
};

class batch_scheduler {
 public:
  // `pages` is the books of the device's pool; must outlive this.
  batch_scheduler(options chosen, cache::kv_cache& pages);
  ~batch_scheduler();

  // Errors: exhausted (queue full; or the sequence could never fit the pool, field "max_tokens").
  status add(new_sequence added);
  // The device runs so many micro-batches beside each other, each in a place of its own: from then
  // on no sequence is in two of them, decode rows have one of their own, and a suspect is in flight
  // alone. 1: in order, one after the other, `credits` of them, all in place 0.
  void set_flights(int count);
  // The next micro-batch, or nothing (no credit, or nothing to do). Counts as in flight.
  std::optional<model::micro_batch> plan();
  // Somebody may have something to compute: false is certain, true is not.
  bool ready() const;
  // REQUIRES `done` to answer the oldest micro-batch in flight, or any when the device runs
  // several. Slices of ended sequences are ignored.
  std::vector<progress> complete(const model::step_result& done);
  // Ends a sequence (finished or cancelled): its prefix becomes findable, its pages are released.
  // When a micro-batch with it is in flight, the release happens as that one completes. Unknown id:
  // ignored.
  void end(sequence_id id);
  // The executor died: micro-batches in flight are void, the pool is reset, running sequences go to
  // the front of the queue in their old order. Their tokens so far are kept. Returns the sequences
  // of the micro-batches that were running, the oldest in flight or all of them (set_flights);
  // staged ones never ran and are not among them. `ordered`: it was killed by command, so nobody is
  // suspected.
  std::vector<suspect> device_lost(bool ordered = false);

  // Takes out everybody who waits, oldest first: without pages, and in no micro-batch in flight.
  std::vector<std::unique_ptr<sequence>> take_waiting();
  // One that another scheduler gave up. It is computed again from its tokens, as after a loss; no
  // bound refuses it. REQUIRES arrivals that were given to all of both schedulers' sequences.
  void adopt(std::unique_ptr<sequence> moved);

  // Prompt tokens that needed no computing when the sequence was first admitted.
  int cached_tokens(sequence_id id) const;
  int in_flight() const noexcept;  // micro-batches
  scheduler_stats stats() const;
  bool idle() const;  // nothing waiting, running or in flight

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace foretoken::scheduler
