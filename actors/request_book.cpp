// SPDX-License-Identifier: Apache-2.0
#include "actors/request_book.hpp"

#include <algorithm>
#include <utility>

namespace foretoken::actors {
namespace {

double seconds(time_point from, time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Choice 0 uses the request's seed itself, so that n=1 and the first of n=4 give the same bytes.
std::uint64_t choice_seed(std::uint64_t seed, std::size_t index) {
  std::uint64_t mixed = seed + index * 0x9E3779B97F4A7C15u;
  if (index == 0) return seed;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
  return mixed ^ (mixed >> 31);
}

bool worth_sending(const token_event& out) {
  return !out.text.empty() || !out.logprobs.empty() || !out.ids.empty();
}

}  // namespace

request_book::request_book(scheduler::device_plans& plans,
                           std::shared_ptr<const tokenizer::tokenizer> words,
                           counters& metrics,
                           book_limits limits)
    : plans_(plans),
      words_(std::move(words)),
      metrics_(metrics),
      limits_(limits),
      executor_wait_(limits.executor_wait_max) {}

request_book::~request_book() {
  abandon();
}

void request_book::abandon() {
  deliver();
  owners_.clear();
  requests_.clear();  // their promises say it
}

void request_book::add(accepted_request added, time_point now) {
  const auto id = added.id;
  const auto& request = *added.request;
  live_request live{std::move(added), {}, {}, 0, 0, -1, true, false};
  const auto count = static_cast<std::size_t>(request.n);
  const bool scored = request.echo && request.sampling.logprobs >= 0;
  for (std::size_t i = 0; i < count; ++i) {
    live.choices.push_back(
        {choice_stream(words_, request), 0, false, now, finish_reason::cancelled});
    const sequence_id sequence{++last_sequence_};
    live.sequences.push_back(sequence);
    owners_[sequence] = {id, i};
  }
  live.open_choices = request.n;
  auto& kept = requests_.emplace(id, std::move(live)).first->second;
  for (std::size_t i = 0; i < count; ++i) {
    auto sampling = std::make_shared<model::sampling_parameters>(request.sampling);
    sampling->seed = choice_seed(kept.what.seed, i);
    const auto added_status = plans_.add({kept.sequences[i], kept.what.space, kept.what.prompt,
                                          std::move(sampling), kept.what.max_tokens, scored},
                                         kept.sequences.front());
    if (!added_status) {
      if (added_status.error().code == errc::exhausted) metrics_.rejected_overload.add();
      fail(id, added_status.error(), now);
      finish_if_done(id, now);
      return;
    }
    if (!request.echo) continue;
    token_event out;
    out.choice = static_cast<int>(i);
    const auto* text = std::get_if<text_prompt>(&request.prompt);
    kept.choices[i].text.echo(*kept.what.prompt, text ? *text : words_->decode(*kept.what.prompt),
                              out);
    emit(kept, std::move(out));
  }
}

void request_book::cancel(request_id id, time_point now) {
  const auto at = requests_.find(id);
  if (at == requests_.end()) return;
  auto& live = at->second;
  for (std::size_t i = 0; i < live.choices.size(); ++i) {
    if (!live.choices[i].ended) end_choice(live, i, finish_reason::cancelled);
  }
  finish_if_done(id, now);
}

void request_book::cancel_all(time_point now) {
  std::vector<request_id> ids;
  for (const auto& [id, live] : requests_) ids.push_back(id);
  for (const auto id : ids) cancel(id, now);
}

void request_book::fail_all(const error& failure, time_point now) {
  std::vector<request_id> ids;
  for (const auto& [id, live] : requests_) ids.push_back(id);
  for (const auto id : ids) {
    fail(id, failure, now);
    finish_if_done(id, now);
  }
}

std::optional<model::micro_batch> request_book::plan(int device, time_point now) {
  auto batch = plans_.plan(device);
  if (batch) note_first_step(*batch, now);
  return batch;
}

void request_book::note_first_step(const model::micro_batch& batch, time_point now) {
  std::size_t rows = 0;
  waited_since_ = time_point::max();
  for (const auto& slice : batch.slices) {
    rows += slice.tokens.size();
    const auto owner = owners_.find(slice.sequence);
    if (owner == owners_.end()) continue;
    auto& live = requests_.at(owner->second.first);
    waited_since_ = std::min(waited_since_, live.queued ? live.what.accepted : time_point{});
    if (!live.queued) continue;
    live.queued = false;
    live.cached_tokens = plans_.cached_tokens(slice.sequence);
    metrics_.queue_time.observe(seconds(live.what.accepted, now));
    metrics_.prompt_tokens.add(live.what.prompt->size());
    metrics_.cached_tokens.add(static_cast<std::uint64_t>(live.cached_tokens));
  }
  metrics_.batch_sequences.observe(static_cast<double>(batch.slices.size()));
  metrics_.batch_tokens.observe(static_cast<double>(rows));
}

void request_book::complete(int device, const model::step_result& done, time_point now) {
  for (const auto& step : plans_.complete(device, done)) {
    const auto owner = owners_.find(step.id);
    if (owner == owners_.end()) continue;
    const auto [id, index] = owner->second;
    apply(requests_.at(id), index, step, now);
    finish_if_done(id, now);
  }
}

void request_book::apply(live_request& live,
                         std::size_t index,
                         const scheduler::progress& step,
                         time_point now) {
  auto& part = live.choices[index];
  if (part.ended) return;
  const auto broken = [](const model::sampled& one) { return one.non_finite; };
  if ((step.next && step.next->non_finite) ||
      std::any_of(step.scores.begin(), step.scores.end(), broken)) {
    metrics_.non_finite_logits.add();
    metrics_.non_finite_in_a_row.add(1);
    fail(live.what.id, {errc::device, "the model produced logits that are not finite", "model"},
         now);
    return;
  }
  if (step.next || !step.scores.empty()) metrics_.non_finite_in_a_row.set(0);
  token_event out;
  out.choice = static_cast<int>(index);
  if (!step.scores.empty()) part.text.echo_scores(*live.what.prompt, step.scores, out);
  if (step.next) {
    take_token(live, index, *step.next, out, now);
  } else if (step.prompt_done && live.what.max_tokens == 0) {
    part.text.finish(out);
    end_choice(live, index, finish_reason::length);
  }
  if (worth_sending(out)) emit(live, std::move(out));
  if (part.ended) emit(live, choice_event{static_cast<int>(index), part.reason});
}

void request_book::take_token(live_request& live,
                              std::size_t index,
                              const model::sampled& next,
                              token_event& out,
                              time_point now) {
  auto& part = live.choices[index];
  ++part.generated;
  ++live.completion_tokens;
  metrics_.generated_tokens.add();
  if (!live.started) {
    live.started = true;
    metrics_.time_to_first_token.observe(seconds(live.what.accepted, now));
  } else if (part.generated > 1) {
    metrics_.inter_token.observe(seconds(part.last, now));
  }
  part.last = now;
  if (!live.what.request->ignore_eos && words_->is_end_of_generation(next.id)) {
    part.text.finish(out);
    end_choice(live, index, finish_reason::stop);
  } else if (part.text.push(next, out)) {
    end_choice(live, index, finish_reason::stop);
  } else if (part.generated >= live.what.max_tokens) {
    part.text.finish(out);
    end_choice(live, index, finish_reason::length);
  }
}

void request_book::end_choice(live_request& live, std::size_t index, finish_reason reason) {
  auto& part = live.choices[index];
  part.ended = true;
  part.reason = reason;
  --live.open_choices;
  plans_.end(live.sequences[index]);
}

void request_book::fail(request_id id, error failure, time_point now) {
  const auto at = requests_.find(id);
  if (at == requests_.end()) return;
  auto& live = at->second;
  for (std::size_t i = 0; i < live.choices.size(); ++i) {
    if (!live.choices[i].ended) end_choice(live, i, finish_reason::cancelled);
  }
  emit(live, error_event{std::move(failure)});
  metrics_.finished_error.add();
  metrics_.request_duration.observe(seconds(live.what.accepted, now));
  live.open_choices = -1;  // finish_if_done() only erases it now
}

void request_book::finish_if_done(request_id id, time_point now) {
  const auto at = requests_.find(id);
  if (at == requests_.end() || at->second.open_choices > 0) return;
  auto& live = at->second;
  if (live.open_choices == 0) {
    done_event done;
    for (const auto& part : live.choices) done.reasons.push_back(part.reason);
    done.usage = {static_cast<int>(live.what.prompt->size()), live.completion_tokens,
                  std::max(0, live.cached_tokens)};
    switch (done.reasons.front()) {
      case finish_reason::stop: metrics_.finished_stop.add(); break;
      case finish_reason::length: metrics_.finished_length.add(); break;
      case finish_reason::cancelled: metrics_.finished_cancelled.add(); break;
    }
    metrics_.request_duration.observe(seconds(live.what.accepted, now));
    emit(live, std::move(done));
  }
  erase(at);
}

void request_book::erase(request_map::iterator at) {
  for (const auto sequence : at->second.sequences) owners_.erase(sequence);
  requests_.erase(at);
}

void request_book::executor_lost(int device, time_point now, bool ordered) {
  const auto suspects = plans_.device_lost(device, ordered);
  if (!plans_.any_up()) without_executor_since_ = now;
  for (const auto& suspect : suspects) {
    if (!suspect.alone || suspect.deaths < limits_.crashes_max) continue;
    const auto owner = owners_.find(suspect.id);
    if (owner == owners_.end()) continue;
    const auto id = owner->second.first;
    fail(id, {errc::device, "the executor failed repeatedly on this request"}, now);
    finish_if_done(id, now);
  }
}

void request_book::executor_up(int device, int flights) {
  plans_.device_up(device, flights);
  without_executor_since_.reset();
  executor_wait_ = limits_.executor_wait_max;
}

std::optional<time_point> request_book::end_stranded(time_point now) {
  if (!without_executor_since_) return std::nullopt;
  std::vector<request_id> ended;
  std::optional<time_point> next;
  for (const auto& [id, live] : requests_) {
    const auto due = std::max(*without_executor_since_, live.what.accepted) + executor_wait_;
    if (due <= now) {
      ended.push_back(id);
    } else if (!next || due < *next) {
      next = due;
    }
  }
  for (const auto id : ended) {
    const bool lost = executor_wait_ == std::chrono::milliseconds(0);
    fail(id,
         {errc::device, lost ? "the device is lost; try again later"
                             : "no executor came up in time; try again later"},
         now);
    finish_if_done(id, now);
  }
  return next;
}

void request_book::emit(live_request& live, decltype(event::what) what) {
  const auto same = [&](const auto& entry) { return entry.first == live.what.sink; };
  auto at = std::find_if(outbox_.begin(), outbox_.end(), same);
  if (at == outbox_.end()) at = outbox_.insert(outbox_.end(), {live.what.sink, {}});
  at->second.push_back({live.what.id, std::move(what)});
  if (at->second.back().terminal()) live.what.ending.kept();
}

void request_book::deliver() {
  for (auto& [sink, events] : std::exchange(outbox_, {})) sink->deliver(std::move(events));
}

}  // namespace foretoken::actors
