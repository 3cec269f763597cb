// SPDX-License-Identifier: Apache-2.0
// The invariants. Each fails with a sentence; the first one is the outcome of the run.
#include <algorithm>

#include "tests/sim/world.hpp"

namespace foretoken::sim {

void world::check_plan(const model::micro_batch& batch) {
  int rows = 0;
  std::vector<sequence_id> ids;
  for (const auto& part : batch.slices) {
    rows += static_cast<int>(part.tokens.size());
    ids.push_back(part.sequence);
    const client& owner = clients.at(part.sequence);
    if (owner.ended) fail("an ended sequence was planned");
    const int end = part.position + static_cast<int>(part.tokens.size());
    const int known = static_cast<int>(owner.prompt.size() + owner.stream.size());
    if (part.tokens.empty() || end > known) fail("a slice is empty or runs past the known tokens");
    if (static_cast<int>(part.pages.size()) != (end + page_tokens - 1) / page_tokens)
      fail("pages do not cover the slice");
    const bool wants = end == known && owner.max_tokens > 0;
    if (part.sample_last != wants) fail("sample_last is wrong");
    if (static_cast<int>(owner.stream.size()) >= owner.max_tokens && owner.max_tokens > 0)
      fail("planned past max_tokens");
    if (part.generated_count != owner.stream.size()) fail("generated_count is wrong");
    const bool penalised = part.sampling->repetition_penalty != 1 && part.sample_last;
    if ((part.prompt != nullptr) != penalised) fail("prompt is filled wrongly");
    if (part.generated != (penalised ? owner.stream : std::vector<token>{}))
      fail("generated is filled wrongly");
    if (!owner.score && part.score_all) fail("scores nobody asked for");
    const int cached = plans->cached_tokens(part.sequence);
    if (owner.cached >= 0 && owner.cached != cached) fail("the count of reused tokens changed");
    clients.at(part.sequence).cached = cached;
    fold(static_cast<std::uint64_t>(part.sequence) * 1000003u +
         static_cast<std::uint64_t>(part.position));
    for (const page_id page : part.pages) fold(static_cast<std::uint64_t>(page));
  }
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end())
    fail("a sequence stands twice in a batch");
  if (rows > limits.step_tokens_max) fail("more rows than step_tokens_max");
  check_place(batch.place, rows);
}

// REQUIRES that the batch does not fly yet.
void world::check_place(int place, int rows) {
  if (place < 0 || place >= flights) fail("no such place");
  if (flights == 1) return;
  std::vector<bool> taken(static_cast<std::size_t>(flights));
  for (const auto& before : flying) taken[static_cast<std::size_t>(before.place)] = true;
  if (taken[static_cast<std::size_t>(place)]) fail("two micro-batches in one place");
  const bool few = rows <= limits.beside_rows_max;
  if (!few && place > 0) fail("a large step in a small place");
  if (few && place == 0 && std::count(taken.begin() + 1, taken.end(), false) > 0)
    fail("few rows in the large place while a small one is free");
  if (place == 0 && !few) ++out.large_steps;
}

// Who shares the beginning of a prompt waits for the one that computes it: no step holds the same
// whole page of two prompts.
void world::check_shared_prompts(const model::micro_batch& batch) {
  for (std::size_t i = 0; i < batch.slices.size(); ++i) {
    for (std::size_t j = i + 1; j < batch.slices.size(); ++j) {
      const auto &a = batch.slices[i], &b = batch.slices[j];
      const client &first = clients.at(a.sequence), &second = clients.at(b.sequence);
      if (first.score || second.score || first.space != second.space) continue;
      if (a.position != b.position || a.position % page_tokens != 0) continue;
      const auto size = std::min(first.prompt.size(), second.prompt.size());
      const auto differ = std::mismatch(first.prompt.begin(),
                                        first.prompt.begin() + static_cast<std::ptrdiff_t>(size),
                                        second.prompt.begin())
                              .first;
      const int common = static_cast<int>(differ - first.prompt.begin());
      const int rows = static_cast<int>(std::min(a.tokens.size(), b.tokens.size()));
      const int end = a.position + page_tokens;
      if (rows > page_tokens && end <= common && end < static_cast<int>(size))
        fail("two prompts compute the same page");
    }
  }
}

// Sequences that decode share one step: two such steps in flight would each read all weights. (One
// slice alone may be a suspect's.)
void world::check_decodes() {
  int decoding = 0;
  for (const auto& batch : flying) {
    const auto decodes = [&](const model::slice& part) {
      const client& owner = clients.at(part.sequence);
      return part.tokens.size() == 1 && part.generated_count > 0 &&
             part.position + 1 == static_cast<int>(owner.prompt.size() + part.generated_count);
    };
    if (batch.slices.size() > 1 && std::any_of(batch.slices.begin(), batch.slices.end(), decodes))
      ++decoding;
  }
  if (decoding > 1) fail("two steps in flight decode");
}

// Until something else happens, all that a finished sequence computed can be reused.
void world::check_found_whole(const client& finished) {
  std::vector<token> computed = finished.prompt;
  computed.insert(computed.end(), finished.stream.begin(), finished.stream.end());
  if (!finished.stream.empty()) computed.pop_back();  // the last token was only sampled
  if (books->peek(finished.space, computed) != static_cast<int>(computed.size()))
    fail("what a finished sequence computed is not found");
  // One who leaves it anywhere shares what lies before; no token of ours is as large.
  const auto leave = static_cast<std::size_t>(finished.id) % computed.size();
  computed[leave] = 1000;
  if (books->peek(finished.space, computed) < static_cast<int>(leave))
    fail("a part of what a finished sequence computed is not found");
}

// REQUIRES idle. The prefix used last is the last to be evicted.
void world::check_eviction_order() {
  const auto found = clients.find(last_finished);
  if (found == clients.end()) return;
  const auto lease = books->lookup(found->second.space, found->second.prompt);
  books->release(lease.pages);
  for (int cached = books->counts().cached - 1; cached >= static_cast<int>(lease.pages.size());
       --cached) {
    books->trim(cached);
    if (books->peek(found->second.space, found->second.prompt) != lease.tokens)
      return fail("the prefix used last was evicted before others");
  }
}

void world::check_books() {
  if (auto broken = books->audit(); !broken.empty()) fail("audit: " + broken);
  const auto counts = books->counts();
  if (counts.free + counts.cached + counts.used != books->pages()) fail("pages do not add up");
  if (plans->idle() && counts.used != 0) fail("idle, and pages are still leased");
}

}  // namespace foretoken::sim
