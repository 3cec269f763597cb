// SPDX-License-Identifier: Apache-2.0
#include "scheduler/sequences.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace foretoken::scheduler {
namespace {

constexpr page_id none{-1};

std::span<const token> first(const std::vector<token>& tokens, int count) {
  return std::span(tokens).first(static_cast<std::size_t>(count));
}

// Positions that must have pages at admission: the known tokens and the one that will be sampled;
// the last token of a sequence is never computed.
int admission_tokens(const sequence& of) noexcept {
  const int longest = of.prompt_size() + std::max(of.asked.max_tokens - 1, 0);
  return std::max(of.known(), std::min(of.known() + 1, longest));
}

}  // namespace

sequence* sequence_book::find(sequence_id id) const {
  const auto at = all_.find(id);
  return at == all_.end() ? nullptr : at->second.get();
}

sequence& sequence_book::add(new_sequence added) {
  auto made = std::make_unique<sequence>();
  made->tokens = *added.prompt;
  made->asked = std::move(added);
  made->order = std::max(next_order_, made->asked.arrival);
  next_order_ = made->order + 1;
  sequence& one = *made;
  waiting_.emplace(one.order, &one);
  all_.emplace(one.asked.id, std::move(made));
  return one;
}

void sequence_book::erase(sequence& gone) {
  waiting_.erase(gone.order);
  running_.erase(gone.order);
  all_.erase(gone.asked.id);
}

std::vector<std::unique_ptr<sequence>> sequence_book::take_waiting() {
  std::vector<std::unique_ptr<sequence>> out;
  for (const auto& [order, one] : waiting_) {
    const auto at = all_.find(one->asked.id);
    out.push_back(std::move(at->second));
    all_.erase(at);
  }
  waiting_.clear();
  return out;
}

void sequence_book::adopt(std::unique_ptr<sequence> moved) {
  sequence& one = *moved;
  one.blocker_tokens = 0;  // who computes the same prefix is a matter of this book
  next_order_ = std::max(next_order_, one.order + 1);
  waiting_.emplace(one.order, &one);
  all_.emplace(one.asked.id, std::move(moved));
}

void sequence_book::move(sequence& one, bool to_running) {
  (to_running ? waiting_ : running_).erase(one.order);
  (to_running ? running_ : waiting_).emplace(one.order, &one);
  one.running = to_running;
}

bool sequence_book::blocked(sequence& late) {
  // The last known token must be computed to have logits, so a prefix ends before it.
  const int usable = late.known() - 1;
  if (late.asked.score_prompt || usable < page_tokens) return false;
  const auto computes = [&](const sequence& other, int tokens) {
    return other.running && !other.ended && other.prefilling_prompt() && other.published < tokens;
  };
  if (late.blocker_tokens > 0) {
    const sequence* other = find(late.blocker);
    if (other != nullptr && computes(*other, late.blocker_tokens)) return true;
    late.blocker_tokens = 0;
  }
  int cached = -1;
  for (const auto& [order, other] : running_) {
    if (other->asked.space != late.asked.space || other->ended) continue;
    const auto theirs = first(other->tokens, std::min(usable, other->prompt_size()));
    const auto ours = first(late.tokens, static_cast<int>(theirs.size()));
    const auto differ = std::mismatch(theirs.begin(), theirs.end(), ours.begin()).first;
    const int common = whole_pages(static_cast<int>(differ - theirs.begin()));
    if (common == 0 || !computes(*other, common)) continue;
    if (cached < 0) cached = cache_.peek(late.asked.space, first(late.tokens, usable));
    if (common <= cached) continue;
    late.blocker = other->asked.id;
    late.blocker_tokens = common;
    return true;
  }
  return false;
}

bool sequence_book::admit(sequence& next) {
  cache::prefix_lease found;
  if (!next.asked.score_prompt) {
    found = cache_.lookup(next.asked.space, first(next.tokens, next.known() - 1));
  }
  page_id source = none;
  const int partial = found.tokens % page_tokens;
  if (partial > 0) {
    source = found.pages.back();
    found.pages.pop_back();
  }
  const int wanted = pages_for(admission_tokens(next)) - static_cast<int>(found.pages.size());
  auto fresh = cache_.allocate(wanted);
  if (!fresh && source != none) {  // the source itself may be the page that is missing
    cache_.release({&source, 1});
    source = none;
    found.tokens -= partial;
    fresh = cache_.allocate(wanted);
  }
  if (!fresh) {
    cache_.release(found.pages);
    return false;
  }
  next.pages = std::move(found.pages);
  next.pages.insert(next.pages.end(), fresh->begin(), fresh->end());
  next.copy_from = source;
  next.copy_tokens = source == none ? 0 : partial;
  next.done = next.planned = found.tokens;
  next.published = std::min(whole_pages(found.tokens), whole_pages(next.prompt_size()));
  if (!next.admitted_once) {
    next.admitted_once = true;
    next.cached_tokens = found.tokens;
    prompt_tokens_cached += static_cast<std::uint64_t>(found.tokens);
  }
  move(next, true);
  return true;
}

bool sequence_book::grow(sequence& of, int tokens) {
  const int missing = pages_for(tokens) - static_cast<int>(of.pages.size());
  if (missing <= 0) return true;
  const auto fresh = cache_.allocate(missing);
  if (!fresh) return false;
  of.pages.insert(of.pages.end(), fresh->begin(), fresh->end());
  return true;
}

bool sequence_book::preempt_for(sequence& needy) {
  for (const auto& [order, other] : running_) {  // finished ones lose nothing
    if (other == &needy || other->in_flight > 0 || !other->finished() || other->pages.empty())
      continue;
    retire(*other);
    return true;
  }
  for (auto at = running_.rbegin(); at != running_.rend(); ++at) {
    sequence& victim = *at->second;
    if (&victim == &needy) return false;  // all younger ones are in flight, or there are none
    if (victim.in_flight > 0 || victim.finished()) continue;
    preempt(victim);
    return true;
  }
  return false;
}

void sequence_book::preempt(sequence& victim) {
  retire(victim);
  move(victim, false);
  ++preemptions;
}

void sequence_book::publish_prompt(sequence& of) {
  const int prompt = of.prompt_size();
  const int ready = of.done >= prompt ? prompt : whole_pages(of.done);
  if (ready <= of.published) return;
  cache_.publish(of.asked.space, first(of.tokens, ready),
                 std::span(of.pages).first(static_cast<std::size_t>(pages_for(ready))));
  of.published = ready;
}

void sequence_book::retire(sequence& gone) {
  FORETOKEN_ASSERT(gone.in_flight == 0 && gone.done == gone.planned);
  if (gone.copy_from != none) {
    // Its first step never ran: the page meant for the copy holds nothing yet.
    gone.done = whole_pages(gone.done);
    cache_.release({&gone.copy_from, 1});
    gone.copy_from = none;
  }
  if (gone.done > 0 && !gone.pages.empty()) {
    cache_.publish(gone.asked.space, first(gone.tokens, gone.done),
                   std::span(gone.pages).first(static_cast<std::size_t>(pages_for(gone.done))));
  }
  cache_.release(gone.pages);
  gone.pages.clear();
  gone.done = gone.planned = gone.published = 0;
}

void sequence_book::device_lost() {
  cache_.reset();
  std::vector<sequence*> ended;
  for (const auto& [order, one] : running_) {
    one->pages.clear();
    one->copy_from = none;
    one->done = one->planned = one->published = one->in_flight = 0;
    if (one->ended) ended.push_back(one);
  }
  for (sequence* one : ended) erase(*one);
  std::vector<sequence*> again;
  for (const auto& [order, one] : running_) {
    if (!one->finished()) again.push_back(one);
  }
  for (sequence* one : again) {
    move(*one, false);
    ++recovered;
  }
}

}  // namespace foretoken::scheduler
