// SPDX-License-Identifier: Apache-2.0
#include "scheduler/device_plans.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "scheduler/sequences.hpp"

namespace foretoken::scheduler {
namespace {

// Work is counted in rows of a prompt. A generated token is worth more: a step that decodes few
// rows takes about as long as one of eight times as many rows of prompts, on the CPU and on a GPU.
constexpr std::int64_t token_work = 8;

}  // namespace

device_plans::device_plans(options chosen, cache::pools& pools) {
  for (int i = 0; i < pools.devices(); ++i) {
    seat made;
    made.pages = &pools.of(i);
    made.plans = std::make_unique<batch_scheduler>(chosen, *made.pages);
    seats_.push_back(std::move(made));
  }
}

device_plans::~device_plans() = default;

bool device_plans::any_up() const noexcept {
  return std::any_of(seats_.begin(), seats_.end(), [](const seat& each) { return each.up; });
}

device_plans::choice device_plans::least_work(const new_sequence& added, sequence_id beside) const {
  if (seats_.size() == 1 || !added.prompt) return {};
  const auto known = placed_.find(beside);
  const bool all = !any_up();
  const auto size = static_cast<int>(added.prompt->size());
  choice best;
  auto least = std::numeric_limits<std::int64_t>::max();
  for (int i = 0; i < devices(); ++i) {
    if (!all && !at(i).up) continue;
    const bool computed = known != placed_.end() && known->second.device == i;
    const int cached = computed ? size : at(i).pages->peek(added.space, *added.prompt);
    const std::int64_t work = at(i).work + size - cached;
    if (work < least) {
      least = work;
      best = {i, cached};
    }
  }
  return best;
}

status device_plans::add(new_sequence added, sequence_id beside) {
  const auto [device, cached] = least_work(added, beside);
  const sequence_id id = added.id;
  const auto size = added.prompt ? static_cast<int>(added.prompt->size()) : 0;
  // All of it at most: nobody knows where a stop ends it.
  place made{device, token_work * std::max(added.max_tokens, 0), size - cached};
  made.work += made.prompt;
  added.arrival = ++arrivals_;
  FORETOKEN_TRY(at(device).plans->add(std::move(added)));
  placed_.emplace(id, made);
  at(device).work += made.work;
  return {};
}

std::optional<model::micro_batch> device_plans::plan(int device) {
  return at(device).plans->plan();
}

bool device_plans::ready(int device) const {
  return at(device).plans->ready();
}

void device_plans::spend(place& of, std::int64_t work) {
  const std::int64_t spent = std::clamp<std::int64_t>(work, 0, of.work);
  of.work -= spent;
  at(of.device).work -= spent;
}

void device_plans::note(const progress& step) {
  const auto found = placed_.find(step.id);
  if (found == placed_.end()) return;
  if (!step.prompt_done && !step.next) return;
  place& of = found->second;
  spend(of, std::exchange(of.prompt, 0) + (step.next ? token_work : 0));
}

std::vector<progress> device_plans::complete(int device, const model::step_result& done) {
  auto news = at(device).plans->complete(done);
  for (const progress& each : news) note(each);
  return news;
}

void device_plans::end(sequence_id id) {
  const auto found = placed_.find(id);
  if (found == placed_.end()) return;
  spend(found->second, found->second.work);
  at(found->second.device).plans->end(id);
  placed_.erase(found);
}

// Only what has no pages moves, to the devices that are up.
void device_plans::move_waiting(int from) {
  if (!any_up() || at(from).up) return;
  for (auto& moved : at(from).plans->take_waiting()) {
    place& of = placed_.at(moved->asked.id);
    const int to = least_work(moved->asked, {}).device;
    at(from).work -= of.work;
    of.work += moved->known() - std::exchange(of.prompt, moved->known());  // all of it again
    of.device = to;
    at(to).work += of.work;
    at(to).plans->adopt(std::move(moved));
  }
}

void device_plans::device_up(int device, int flights) {
  at(device).up = true;
  at(device).plans->set_flights(flights);
  for (int i = 0; i < devices(); ++i) move_waiting(i);
}

std::vector<suspect> device_plans::device_lost(int device, bool ordered) {
  at(device).up = false;
  auto suspects = at(device).plans->device_lost(ordered);
  move_waiting(device);
  return suspects;
}

int device_plans::cached_tokens(sequence_id id) const {
  const auto found = placed_.find(id);
  return found == placed_.end() ? 0 : at(found->second.device).plans->cached_tokens(id);
}

int device_plans::in_flight(int device) const {
  return at(device).plans->in_flight();
}

scheduler_stats device_plans::stats() const {
  scheduler_stats sum;
  for (const seat& each : seats_) {
    const scheduler_stats one = each.plans->stats();
    sum.waiting += one.waiting;
    sum.running += one.running;
    sum.in_flight += one.in_flight;
    sum.preemptions += one.preemptions;
    sum.recovered += one.recovered;
    sum.prompt_tokens_computed += one.prompt_tokens_computed;
    sum.prompt_tokens_cached += one.prompt_tokens_cached;
  }
  return sum;
}

}  // namespace foretoken::scheduler
