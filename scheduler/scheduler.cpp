// SPDX-License-Identifier: Apache-2.0
#include "scheduler/scheduler.hpp"

#include <algorithm>
#include <deque>

#include "base/assert.hpp"
#include "model/adjustments.hpp"
#include "scheduler/sequences.hpp"

namespace foretoken::scheduler {
namespace {

constexpr page_id none{-1};

struct planned_slice {
  sequence_id id{};
  int position = 0, count = 0;
  bool sampled = false;
  bool scored = false;
};

struct flight {
  std::uint64_t step = 0;
  int place = 0;
  bool decodes = false;
  bool alone = false;  // holds one suspect and nobody else
  std::vector<planned_slice> slices;
  std::vector<page_id> sources;  // leased until the copies have been made
};

}  // namespace

struct batch_scheduler::state {
  state(options chosen, cache::kv_cache& pages) : limits(chosen), cache(pages), book(pages) {
    limits.sequences_max = std::max(limits.sequences_max, 1);
    limits.step_tokens_max = std::max(limits.step_tokens_max, 1);
    limits.prefill_chunk = std::clamp(limits.prefill_chunk, 1, limits.step_tokens_max);
    limits.credits = std::max(limits.credits, 1);
    limits.beside_rows_max = std::clamp(limits.beside_rows_max, 1, limits.step_tokens_max);
  }

  status check(const new_sequence& added) const;
  void plan_decodes(model::micro_batch& batch, flight& plan);
  int admit_waiting();
  void plan_prefills(model::micro_batch& batch, flight& plan);
  void plan_alone(model::micro_batch& batch, flight& plan);
  void plan_together(model::micro_batch& batch, flight& plan);
  bool beside() const noexcept { return flights_max > 1; }
  bool may_plan() const;
  bool taken(int place) const;
  int place_for(int step_rows) const;
  bool prompts_turn() const;
  bool suspects_ready() const;
  int prefill_rows_max() const;
  std::vector<sequence*> ready_prefills() const;
  void emit(sequence& one, int count, model::micro_batch& batch, flight& plan);
  bool make_room(sequence& one);
  void take_scores(sequence& one,
                   const planned_slice& slice,
                   std::vector<model::sampled> scores,
                   progress& out) const;
  std::optional<progress> take(const planned_slice& slice, const model::slice_result& result);

  options limits;
  cache::kv_cache& cache;
  sequence_book book;
  std::deque<flight> flights;
  int flights_max = 1;  // that run beside each other
  std::uint64_t step = 0;
  std::uint64_t next_decode = 0, next_prefill = 0;  // orders where the next turn begins
  std::uint64_t prompt_tokens_computed = 0;
  bool short_of_pages = false;  // in this plan()
  bool alone_next = false;      // a suspect's turn, when there is one
  bool decodes_had_it = false;  // place 0, last
  int rows = 0, rows_max = 0;   // of the plan being made
};

batch_scheduler::batch_scheduler(options chosen, cache::kv_cache& pages)
    : state_(std::make_unique<state>(chosen, pages)) {}
batch_scheduler::~batch_scheduler() = default;

status batch_scheduler::state::check(const new_sequence& added) const {
  if (!added.prompt || added.prompt->empty()) return invalid("prompt", "the prompt is empty");
  if (!added.sampling) return invalid("sampling", "sampling parameters are missing");
  if (added.max_tokens < 0) return invalid("max_tokens", "max_tokens is negative");
  if (book.find(added.id) != nullptr) return invalid("id", "a sequence with this id is alive");
  const auto prompt = static_cast<std::int64_t>(added.prompt->size());
  const std::int64_t longest = prompt + std::max(added.max_tokens - 1, 0);
  const std::int64_t room = std::int64_t{cache.pages()} * page_tokens;
  if (prompt > room)
    return error{errc::exhausted, "the prompt needs more KV pages than there are", "prompt"};
  if (longest > room) {
    return error{errc::exhausted, "prompt and max_tokens need more KV pages than there are",
                 "max_tokens"};
  }
  if (static_cast<int>(book.waiting().size()) >= limits.waiting_max) {
    return error{errc::exhausted, "too many sequences are waiting"};
  }
  return {};
}

status batch_scheduler::add(new_sequence added) {
  FORETOKEN_TRY(state_->check(added));
  state_->book.add(std::move(added));
  return {};
}

// The next `count` known tokens of `one` join the batch.
void batch_scheduler::state::emit(sequence& one,
                                  int count,
                                  model::micro_batch& batch,
                                  flight& plan) {
  const int end = one.planned + count;
  const int prompt = one.prompt_size();
  model::slice part;
  part.sequence = one.asked.id;
  part.position = one.planned;
  part.tokens.assign(one.tokens.begin() + one.planned, one.tokens.begin() + end);
  part.pages.assign(one.pages.begin(), one.pages.begin() + pages_for(end));
  part.sampling = one.asked.sampling;
  part.generated_count = static_cast<std::uint64_t>(one.generated());
  part.sample_last = end == one.known() && one.generated() < one.asked.max_tokens;
  part.score_all = one.asked.score_prompt && end <= prompt && one.scores_delivered < prompt - 1;
  if (part.score_all && end < prompt) part.score_next = one.tokens[static_cast<std::size_t>(end)];
  if (part.sample_last && model::penalises(*one.asked.sampling)) {
    part.prompt = one.asked.prompt;
    part.generated.assign(one.tokens.begin() + prompt, one.tokens.end());
  }
  if (one.copy_from != none) {
    const auto to = one.pages[static_cast<std::size_t>(one.planned / page_tokens)];
    batch.copies.push_back({one.copy_from, to, one.copy_tokens});
    plan.sources.push_back(one.copy_from);
    one.copy_from = none;
  }
  plan.slices.push_back({one.asked.id, one.planned, count, part.sample_last, part.score_all});
  batch.slices.push_back(std::move(part));
  one.planned = end;
  ++one.in_flight;
  rows += count;
}

// Pages for one more position, taken from younger sequences when there are none. False: not in this
// step; the sequence keeps what it has until older ones finish or need it. The oldest always gets
// its pages once nothing is in flight, so something always moves.
bool batch_scheduler::state::make_room(sequence& one) {
  while (!book.grow(one, one.planned + 1)) {
    short_of_pages = true;
    if (!book.preempt_for(one)) return false;
  }
  return true;
}

void batch_scheduler::state::plan_decodes(model::micro_batch& batch, flight& plan) {
  for (const flight& before : flights) {
    if (before.decodes && !before.alone) return;
  }
  std::vector<sequence*> ready;  // oldest first: they have the first right to pages
  for (const auto& [order, one] : book.running()) {
    if (one->may_run() && !one->suspected() && one->in_flight == 0 && one->decoding())
      ready.push_back(one);
  }
  // A step smaller than the set of decoding sequences still leaves a quarter to prompts, where
  // these have no step of their own.
  const bool prompts =
      !beside() && std::any_of(book.running().begin(), book.running().end(), [](const auto& each) {
        const sequence& one = *each.second;
        return one.may_run() && !one.suspected() && one.prefilling();
      });
  const int room = rows_max - (prompts ? rows_max / 4 : 0);
  if (static_cast<int>(ready.size()) > room) {
    const auto turn = std::find_if(ready.begin(), ready.end(),
                                   [&](const sequence* one) { return one->order >= next_decode; });
    std::rotate(ready.begin(), turn, ready.end());
  }
  for (sequence* one : ready) {
    if (rows >= room) break;
    if (!one->running || !make_room(*one)) continue;
    emit(*one, 1, batch, plan);
    plan.decodes = true;
    next_decode = one->order + 1;
  }
}

// How many joined.
int batch_scheduler::state::admit_waiting() {
  int joined = 0;
  if (short_of_pages) return joined;  // whoever lost its pages must not take them back at once
  for (auto at = book.waiting().begin(); at != book.waiting().end();) {
    if (static_cast<int>(book.running().size()) >= limits.sequences_max) break;
    sequence& one = *(at++)->second;  // admission takes it out of the map
    if (book.blocked(one)) continue;
    if (!book.admit(one)) break;
    ++joined;
  }
  return joined;
}

// Prompt tokens that may still join this step: few when somebody waits for his next token.
int batch_scheduler::state::prefill_rows_max() const {
  const int room = rows_max - rows;
  const bool decoding =
      std::any_of(book.running().begin(), book.running().end(), [](const auto& each) {
        const sequence& one = *each.second;
        return one.may_run() && !one.prefilling() && one.generated() > 0;
      });
  return decoding ? std::min(limits.prefill_chunk, room) : room;
}

std::vector<sequence*> batch_scheduler::state::ready_prefills() const {
  std::vector<sequence*> ready;
  for (const auto& [order, one] : book.running()) {
    if (beside() && one->in_flight > 0) continue;  // chunks follow each other
    if (one->may_run() && !one->suspected() && one->prefilling()) ready.push_back(one);
  }
  return ready;
}

void batch_scheduler::state::plan_prefills(model::micro_batch& batch, flight& plan) {
  std::vector<sequence*> ready = ready_prefills();
  int left = prefill_rows_max();
  const auto turn = std::find_if(ready.begin(), ready.end(),
                                 [&](const sequence* one) { return one->order >= next_prefill; });
  std::rotate(ready.begin(), turn, ready.end());
  for (sequence* one : ready) {
    if (left <= 0) break;
    const int count = one->next_chunk(left);
    emit(*one, count, batch, plan);
    left -= count;
    next_prefill = one->order + 1;
  }
}

// One suspect by itself: the one with the most deaths, so that a cause is soon found, then the
// oldest.
void batch_scheduler::state::plan_alone(model::micro_batch& batch, flight& plan) {
  std::vector<sequence*> ready;
  for (const auto& [order, one] : book.running()) {
    if (!one->may_run() || !one->suspected()) continue;
    if (one->prefilling() || (one->decoding() && one->in_flight == 0)) ready.push_back(one);
  }
  std::stable_sort(ready.begin(), ready.end(),
                   [](const sequence* a, const sequence* b) { return a->deaths > b->deaths; });
  for (sequence* one : ready) {
    if (!one->running) continue;  // preempted for the one before
    plan.decodes = one->decoding();
    if (plan.decodes && !make_room(*one)) continue;
    emit(*one, plan.decodes ? 1 : one->next_chunk(prefill_rows_max()), batch, plan);
    plan.alone = true;
    return;
  }
}

bool batch_scheduler::state::suspects_ready() const {
  return std::any_of(book.running().begin(), book.running().end(), [](const auto& each) {
    const sequence& one = *each.second;
    return one.may_run() && one.suspected() && one.in_flight == 0;
  });
}

// A credit is there, and nobody in flight must be alone.
bool batch_scheduler::state::may_plan() const {
  const auto count = static_cast<int>(flights.size());
  if (!beside()) return count < limits.credits;
  if (count > 0 && (flights.front().alone || (alone_next && suspects_ready()))) return false;
  return count < flights_max;
}

bool batch_scheduler::state::taken(int place) const {
  return std::any_of(flights.begin(), flights.end(),
                     [&](const flight& each) { return each.place == place; });
}

// REQUIRES a step of at most rows_max rows, which is few as long as place 0 is taken.
int batch_scheduler::state::place_for(int step_rows) const {
  if (step_rows > limits.beside_rows_max) return 0;
  for (int place = 1; place < flights_max; ++place) {
    if (!taken(place)) return place;
  }
  return 0;
}

// Decode rows had place 0 last, and prompts need it.
bool batch_scheduler::state::prompts_turn() const {
  if (!beside() || !decodes_had_it || taken(0)) return false;
  int wanted = 0;
  for (const sequence* one : ready_prefills()) wanted += one->next_chunk(limits.step_tokens_max);
  return std::min(wanted, prefill_rows_max()) > limits.beside_rows_max;
}

void batch_scheduler::state::plan_together(model::micro_batch& batch, flight& plan) {
  plan.decodes = false;
  if (prompts_turn()) {
    admit_waiting();
    return plan_prefills(batch, plan);
  }
  plan_decodes(batch, plan);
  // A replayed sequence may find everything but its last token in the cache: it decodes at once.
  if (admit_waiting() > 0) plan_decodes(batch, plan);
  if (!beside() || !plan.decodes) plan_prefills(batch, plan);
}

std::optional<model::micro_batch> batch_scheduler::plan() {
  state& s = *state_;
  if (!s.may_plan()) return std::nullopt;
  model::micro_batch batch;
  flight plan;
  s.rows = 0;
  s.rows_max = s.beside() && s.taken(0) ? s.limits.beside_rows_max : s.limits.step_tokens_max;
  s.short_of_pages = false;
  if (s.alone_next) s.plan_alone(batch, plan);
  if (!plan.alone) s.plan_together(batch, plan);
  if (batch.slices.empty() && (!s.beside() || s.flights.empty())) s.plan_alone(batch, plan);
  if (batch.slices.empty()) return std::nullopt;
  s.alone_next = !plan.alone;
  batch.step = plan.step = ++s.step;
  batch.place = plan.place = s.place_for(s.rows);
  if (plan.place == 0) s.decodes_had_it = plan.decodes;
  s.flights.push_back(std::move(plan));
  return batch;
}

void batch_scheduler::set_flights(int count) {
  state_->flights_max = std::max(count, 1);
}

// The scores of a slice belong to tokens [position + 1, ...); those delivered before a device was
// lost are computed again but not delivered again.
void batch_scheduler::state::take_scores(sequence& one,
                                         const planned_slice& slice,
                                         std::vector<model::sampled> scores,
                                         progress& out) const {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const int target = slice.position + 1 + static_cast<int>(i);
    if (target != one.scores_delivered + 1) continue;
    one.scores_delivered = target;
    out.scores.push_back(std::move(scores[i]));
  }
}

std::optional<progress> batch_scheduler::state::take(const planned_slice& slice,
                                                     const model::slice_result& result) {
  sequence* one = book.find(slice.id);
  if (one == nullptr) return std::nullopt;
  const int prompt = one->prompt_size();
  --one->in_flight;
  one->done = slice.position + slice.count;
  if (one->done >= one->suspect_until) one->suspect_until = one->deaths = 0;
  prompt_tokens_computed +=
      static_cast<std::uint64_t>(std::max(std::min(one->done, prompt) - slice.position, 0));
  if (one->ended) {
    if (one->in_flight > 0) return std::nullopt;
    book.retire(*one);
    book.erase(*one);
    return std::nullopt;
  }
  book.publish_prompt(*one);
  progress out;
  out.id = slice.id;
  if (slice.scored) take_scores(*one, slice, result.scores, out);
  if (one->done >= prompt && !one->prompt_reported) out.prompt_done = one->prompt_reported = true;
  if (slice.sampled) {
    out.next = result.next;
    if (result.next.id >= 0) {
      one->tokens.push_back(result.next.id);
    } else {
      one->failed = true;
    }
  }
  if (!out.prompt_done && out.scores.empty() && !out.next) return std::nullopt;
  return out;
}

std::vector<progress> batch_scheduler::complete(const model::step_result& done) {
  state& s = *state_;
  const auto at = std::find_if(s.flights.begin(), s.flights.end(),
                               [&](const flight& each) { return each.step == done.step; });
  FORETOKEN_ASSERT(at != s.flights.end() && (s.beside() || at == s.flights.begin()));
  const flight finished = std::move(*at);
  s.flights.erase(at);
  FORETOKEN_ASSERT(finished.slices.size() == done.slices.size());
  s.cache.release(finished.sources);
  std::vector<progress> out;
  for (std::size_t i = 0; i < finished.slices.size(); ++i) {
    if (auto news = s.take(finished.slices[i], done.slices[i])) out.push_back(std::move(*news));
  }
  return out;
}

void batch_scheduler::end(sequence_id id) {
  state& s = *state_;
  sequence* one = s.book.find(id);
  if (one == nullptr || one->ended) return;
  if (one->in_flight > 0) {
    one->ended = true;
    return;
  }
  if (one->running) s.book.retire(*one);
  s.book.erase(*one);
}

std::vector<suspect> batch_scheduler::device_lost(bool ordered) {
  state& s = *state_;
  std::vector<suspect> out;
  const std::size_t ran =
      s.beside() ? s.flights.size() : std::min<std::size_t>(1, s.flights.size());
  for (std::size_t i = 0; i < ran && !ordered; ++i) {
    for (const planned_slice& slice : s.flights[i].slices) {
      sequence* one = s.book.find(slice.id);
      if (one == nullptr || one->ended) continue;
      one->suspect_until = std::max(one->suspect_until, slice.position + slice.count);
      out.push_back({slice.id, ++one->deaths, ran == 1 && s.flights[i].slices.size() == 1});
    }
  }
  s.flights.clear();
  s.book.device_lost();
  return out;
}

std::vector<std::unique_ptr<sequence>> batch_scheduler::take_waiting() {
  return state_->book.take_waiting();
}

void batch_scheduler::adopt(std::unique_ptr<sequence> moved) {
  state_->book.adopt(std::move(moved));
}

int batch_scheduler::cached_tokens(sequence_id id) const {
  const sequence* one = state_->book.find(id);
  return one == nullptr ? 0 : one->cached_tokens;
}

int batch_scheduler::in_flight() const noexcept {
  return static_cast<int>(state_->flights.size());
}

scheduler_stats batch_scheduler::stats() const {
  const state& s = *state_;
  scheduler_stats out;
  out.waiting = static_cast<int>(s.book.waiting().size());
  for (const auto& [order, one] : s.book.running()) out.running += one->ended ? 0 : 1;
  out.in_flight = in_flight();
  out.preemptions = s.book.preemptions;
  out.recovered = s.book.recovered;
  out.prompt_tokens_computed = s.prompt_tokens_computed;
  out.prompt_tokens_cached = s.book.prompt_tokens_cached;
  return out;
}

bool batch_scheduler::ready() const {
  const state& s = *state_;
  if (!s.book.waiting().empty()) return true;
  return std::any_of(s.book.running().begin(), s.book.running().end(), [](const auto& each) {
    const sequence& one = *each.second;
    return one.may_run() && (one.prefilling() || (one.decoding() && one.in_flight == 0));
  });
}

bool batch_scheduler::idle() const {
  return state_->flights.empty() && state_->book.waiting().empty() &&
         state_->book.running().empty();
}

}  // namespace foretoken::scheduler
