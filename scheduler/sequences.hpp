// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the scheduler knows of each sequence, and the moves that change who holds pages: admission,
// growth, preemption, retirement. Planning (scheduler.cpp) only decides whose turn it is.

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "cache/kv_cache.hpp"
#include "scheduler/scheduler.hpp"

namespace foretoken::scheduler {

// Positions of a sequence, as half-open ranges:
//   [0, done)         keys and values are in the pages
//   [done, planned)   being computed by micro-batches in flight
//   [planned, known)  known tokens still to be computed
struct sequence {
  new_sequence asked;
  std::uint64_t order = 0;     // arrival; smaller = older = more right to pages
  std::vector<token> tokens;   // prompt + generated
  std::vector<page_id> pages;  // leased
  page_id copy_from{-1};       // leased source of a partial page, until its copy is planned
  int copy_tokens = 0;
  int done = 0, planned = 0;
  int published = 0;      // prompt positions already made findable
  int in_flight = 0;      // micro-batches that hold it
  int cached_tokens = 0;  // of the first admission
  int scores_delivered = 0;
  bool running = false;  // else waiting
  bool admitted_once = false;
  bool prompt_reported = false;
  bool ended = false;   // the caller is done with it; a micro-batch is not yet
  bool failed = false;  // a sample without a token: nothing more is planned
  // It waits for `blocker` to compute their common prefix of `blocker_tokens`.
  sequence_id blocker{};
  int blocker_tokens = 0;
  // The device died while it computed positions up to suspect_until; deaths so far without coming
  // past that point. Chunks before it prove nothing: a replay computes them each time.
  int suspect_until = 0;
  int deaths = 0;

  int known() const noexcept { return static_cast<int>(tokens.size()); }
  int prompt_size() const noexcept { return static_cast<int>(asked.prompt->size()); }
  int generated() const noexcept { return known() - prompt_size(); }
  // Nothing more to compute, ever: the caller will end it.
  bool finished() const noexcept {
    if (failed) return true;
    return asked.max_tokens > 0 ? generated() >= asked.max_tokens : prompt_reported;
  }
  bool may_run() const noexcept { return !ended && !finished(); }
  bool decoding() const noexcept { return generated() > 0 && planned == known() - 1; }
  bool prefilling() const noexcept { return planned < known() && !decoding(); }
  // Rows of its next prefill slice. With scores still owed, rows of the prompt and rows behind it
  // do not share a slice.
  int next_chunk(int rows_max) const noexcept {
    const int end = asked.score_prompt && planned < prompt_size() ? prompt_size() : known();
    return rows_max < end - planned ? rows_max : end - planned;
  }
  // Computed alone until the slice at which the device died has been completed.
  bool suspected() const noexcept { return deaths > 0; }
  bool prefilling_prompt() const noexcept { return done < prompt_size() && !finished(); }
};

// Pages that positions [0, tokens) need.
constexpr int pages_for(int tokens) noexcept {
  return (tokens + page_tokens - 1) / page_tokens;
}
constexpr int whole_pages(int tokens) noexcept {
  return tokens / page_tokens * page_tokens;
}

class sequence_book {
 public:
  explicit sequence_book(cache::kv_cache& pages) : cache_(pages) {}

  sequence* find(sequence_id id) const;
  sequence& add(new_sequence added);
  void erase(sequence& gone);
  std::vector<std::unique_ptr<sequence>> take_waiting();
  void adopt(std::unique_ptr<sequence> moved);
  // Every sequence that has not ended is in one of these, by age.
  const std::map<std::uint64_t, sequence*>& waiting() const noexcept { return waiting_; }
  const std::map<std::uint64_t, sequence*>& running() const noexcept { return running_; }

  // True when a running sequence is about to compute a prefix that `late` shares and the cache
  // lacks.
  bool blocked(sequence& late);
  // waiting -> running with pages for all known tokens and one more; false when they do not fit.
  bool admit(sequence& next);
  // Pages for positions [0, tokens); false when the pool has none left.
  bool grow(sequence& of, int tokens);
  // Frees pages for `needy` by preempting one younger sequence (or a finished one). False when
  // there is none that may be touched now.
  bool preempt_for(sequence& needy);
  void publish_prompt(sequence& of);
  // Publishes what is computed and gives back all pages.
  void retire(sequence& gone);
  // The pool is gone: everything that still has work waits again.
  void device_lost();

  std::uint64_t preemptions = 0, recovered = 0, prompt_tokens_cached = 0;

 private:
  void move(sequence& one, bool to_running);
  void preempt(sequence& victim);

  cache::kv_cache& cache_;
  std::unordered_map<sequence_id, std::unique_ptr<sequence>> all_;
  std::map<std::uint64_t, sequence*> waiting_, running_;
  std::uint64_t next_order_ = 0;
};

}  // namespace foretoken::scheduler
