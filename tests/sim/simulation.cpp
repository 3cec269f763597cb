// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/simulation.hpp"

#include <algorithm>

#include "tests/sim/world.hpp"

namespace foretoken::sim {
namespace {

// The model: the next token is a hash of namespace, history and count of generated tokens.
token next_token(cache_namespace space, const std::vector<token>& history, std::uint64_t count) {
  std::uint64_t h = mix(static_cast<std::uint64_t>(space)) ^ mix(count * 977);
  for (const token t : history)
    h = mix(h ^ static_cast<std::uint64_t>(static_cast<std::uint32_t>(t)));
  return static_cast<token>(h % 7);
}

}  // namespace

void world::start() {
  const int pages = random.between(8, 64);
  books = std::make_unique<cache::kv_cache>(pages);
  limits.sequences_max = random.between(1, 12);
  limits.waiting_max = random.between(4, 32);
  limits.step_tokens_max = random.between(3, 96);
  limits.prefill_chunk = random.between(1, limits.step_tokens_max);
  limits.credits = random.between(1, 3);
  limits.beside_rows_max = random.between(1, 96);
  flights = random.chance(60) ? 1 : random.between(2, 4);
  poison_percent = random.chance(30) ? random.between(1, 30) : 0;
  crashes_max = random.between(1, 4);
  plans = std::make_unique<scheduler::batch_scheduler>(limits, *books);
  plans->set_flights(flights);
  memory.resize(static_cast<std::size_t>(pages) * page_tokens);
  for (int i = 0; i < 4; ++i) {
    std::vector<token> stem;
    for (int n = random.between(1, 80); n > 0; --n) stem.push_back(random.below(3));
    stems.push_back(stem);
  }
}

void world::add_client() {
  client c;
  c.id = sequence_id{next_id++};
  c.space = cache_namespace{static_cast<std::uint64_t>(random.chance(80) ? 1 : 2)};
  const auto& stem = stems[static_cast<std::size_t>(random.below(4))];
  const int keep = random.chance(60) ? static_cast<int>(stem.size())
                                     : random.between(0, static_cast<int>(stem.size()));
  c.prompt.assign(stem.begin(), stem.begin() + keep);
  for (int n = random.between(c.prompt.empty() ? 1 : 0, 24); n > 0; --n)
    c.prompt.push_back(random.below(3));
  c.score = random.chance(15);
  c.max_tokens = random.chance(8) ? 0 : random.between(1, 60);
  if (random.chance(poison_percent)) {
    c.kills_at = random.below(static_cast<int>(c.prompt.size()) + std::max(c.max_tokens - 1, 0));
  }
  auto sampling = std::make_shared<model::sampling_parameters>();
  if (random.chance(30)) sampling->repetition_penalty = 1.1f;
  scheduler::new_sequence added;
  added.id = c.id;
  added.space = c.space;
  added.prompt = std::make_shared<const std::vector<token>>(c.prompt);
  added.sampling = sampling;
  added.max_tokens = c.max_tokens;
  added.score_prompt = c.score;
  const int longest = static_cast<int>(c.prompt.size()) + std::max(c.max_tokens - 1, 0);
  const bool fits = longest <= books->pages() * page_tokens;
  const bool queue_full = plans->stats().waiting >= limits.waiting_max;
  const status taken = plans->add(std::move(added));
  if (taken.has_value() != (fits && !queue_full)) fail("add() accepted or refused wrongly");
  if (!taken) return;
  clients.emplace(c.id, c);
  ++open;
}

void world::cancel_one() {
  std::vector<sequence_id> alive;
  for (const auto& [id, c] : clients) {
    if (!c.ended) alive.push_back(id);
  }
  if (alive.empty()) return plans->end(sequence_id{next_id + 1000});  // unknown: ignored
  const sequence_id id =
      alive[static_cast<std::size_t>(random.below(static_cast<int>(alive.size())))];
  plans->end(id);
  clients[id].ended = true;
  --open;
  ++out.cancelled;
}

void world::plan_one() {
  auto batch = plans->plan();
  if (!batch) return;
  check_plan(*batch);
  fold(batch->step);
  ++out.steps;
  out.copies += batch->copies.size();
  check_shared_prompts(*batch);
  flying.push_back(std::move(*batch));
  check_decodes();
  if (static_cast<int>(flying.size()) > (flights > 1 ? flights : limits.credits))
    fail("more micro-batches than credits");
  const auto counts = plans->stats();
  if (counts.running > limits.sequences_max) fail("more sequences than sequences_max");
}

std::vector<token> world::read_history(const model::slice& part, const client& owner, int count) {
  std::vector<token> history;
  for (int p = 0; p < count; ++p) {
    const cell& c = at(part.pages[static_cast<std::size_t>(p / page_tokens)], p % page_tokens);
    const auto i = static_cast<std::size_t>(p);
    const token truth =
        i < owner.prompt.size() ? owner.prompt[i] : owner.stream[i - owner.prompt.size()];
    if (c.position != p || c.id != truth || c.space != static_cast<std::uint64_t>(owner.space)) {
      fail("sequence " + std::to_string(static_cast<std::uint64_t>(owner.id)) + " position " +
           std::to_string(p) + " does not hold its own history");
    }
    history.push_back(c.id);
  }
  return history;
}

model::slice_result world::compute(const model::slice& part) {
  client& owner = clients.at(part.sequence);
  const int end = part.position + static_cast<int>(part.tokens.size());
  if (part.position > owner.kills_at) owner.killed = 0;  // the cache helped it past its own poison
  if (!owner.ended) read_history(part, owner, part.position);
  for (int p = part.position; p < end; ++p) {
    const int written = planted == fault::wrong_position && p % 37 == 5 ? p + 1 : p;
    at(part.pages[static_cast<std::size_t>(p / page_tokens)], p % page_tokens) = {
        part.tokens[static_cast<std::size_t>(p - part.position)], written,
        static_cast<std::uint64_t>(owner.space)};
  }
  model::slice_result result;
  result.sequence = part.sequence;
  if (owner.ended)
    return result;  // nobody reads it; its history may have been overwritten by nobody
  if (part.score_all) {
    for (int p = part.position + 1; p <= end; ++p) {
      const token target =
          p < end ? part.tokens[static_cast<std::size_t>(p - part.position)] : part.score_next;
      if (target < 0) continue;
      model::sampled s;
      s.id = target;
      s.logprob = static_cast<float>(p);
      result.scores.push_back(s);
    }
  }
  if (part.sample_last) {
    result.next.id = next_token(owner.space, read_history(part, owner, end), part.generated_count);
  }
  return result;
}

void world::execute(const model::micro_batch& batch) {
  if (planted != fault::skip_copies) {
    for (const auto& copy : batch.copies) {
      for (int i = 0; i < copy.positions; ++i) at(copy.to, i) = at(copy.from, i);
    }
  }
  model::step_result result;
  result.step = batch.step;
  for (const auto& part : batch.slices) result.slices.push_back(compute(part));
  if (planted == fault::forget_page && random.chance(5)) {
    at(page_id{random.below(books->pages())}, random.below(page_tokens)).position = -1;
  }
  executed.push_back(std::move(result));
}

void world::take(const scheduler::progress& news) {
  const auto found = clients.find(news.id);
  if (found == clients.end() || found->second.ended)
    return fail("progress of a sequence that ended");
  client& c = found->second;
  if (news.prompt_done) {
    if (c.done_seen) fail("prompt_done twice");
    c.done_seen = true;
  }
  for (const auto& s : news.scores) {
    ++c.scores_seen;
    if (static_cast<int>(s.logprob) != c.scores_seen ||
        s.id != c.prompt[static_cast<std::size_t>(c.scores_seen)]) {
      fail("a score is missing, doubled or of another token");
    }
  }
  if (news.next) {
    if (!c.done_seen) fail("a token before the prompt was done");
    std::vector<token> history = c.prompt;
    history.insert(history.end(), c.stream.begin(), c.stream.end());
    if (news.next->id != next_token(c.space, history, c.stream.size()))
      fail("a token is not the expected one");
    c.stream.push_back(news.next->id);
    ++out.tokens;
  }
  const bool complete = c.done_seen && static_cast<int>(c.stream.size()) >= c.max_tokens;
  if (!complete) return;
  const int owed = c.score ? static_cast<int>(c.prompt.size()) - 1 : 0;
  if (c.scores_seen != owed) fail("a prompt ended without all its scores");
  out.cached += static_cast<std::uint64_t>(plans->cached_tokens(c.id));
  plans->end(c.id);
  check_found_whole(c);
  last_finished = c.id;
  c.ended = true;
  --open;
  ++out.finished;
}

// Beside each other they end in any order.
void world::run_any() {
  std::rotate(flying.begin(), flying.begin() + random.below(static_cast<int>(flying.size())),
              flying.end());
  if (client* poison = poison_in(flying.front())) return die_of(*poison);
  execute(flying.front());
  flying.pop_front();
  const model::step_result result = std::move(executed.front());
  executed.pop_front();
  for (const auto& news : plans->complete(result)) take(news);
}

void world::complete_one() {
  if (flying.empty()) return;
  if (flights > 1) return run_any();
  if (executed.empty()) run_next();
  if (executed.empty()) return;  // it died
  const model::step_result result = std::move(executed.front());
  executed.pop_front();
  flying.pop_front();
  for (const auto& news : plans->complete(result)) take(news);
}

client* world::poison_in(const model::micro_batch& batch) {
  for (const auto& part : batch.slices) {
    client& owner = clients.at(part.sequence);
    const int end = part.position + static_cast<int>(part.tokens.size());
    if (owner.kills_at >= part.position && owner.kills_at < end) return &owner;
  }
  return nullptr;
}

// The oldest micro-batch that has not run yet.
void world::run_next() {
  if (flights > 1) return run_any();
  const auto& batch = flying[executed.size()];
  if (client* poison = poison_in(batch))
    die_of(*poison);
  else
    execute(batch);
}

// What was reported before the death has arrived before it.
void world::die_of(client& poison) {
  while (!executed.empty()) complete_one();
  ++out.poison_deaths;
  if (!poison.ended && ++poison.killed > std::max(crashes_max, 2))
    fail("a poison killed more devices than it may");
  lose_device(false);
}

void world::lose_device(bool ordered) {
  std::vector<sequence_id> ran;
  if (!flying.empty()) {
    const auto& blamed = planted == fault::blame_staged ? flying.back() : flying.front();
    for (const auto& part : blamed.slices) ran.push_back(part.sequence);
    for (std::size_t i = 0; flights > 1 && i < flying.size(); ++i) {
      for (const auto& part : flying[i].slices) ran.push_back(part.sequence);
    }
  }
  for (const auto& suspect : plans->device_lost(ordered)) {
    client& owner = clients.at(suspect.id);
    if (ordered) fail("a death by command has suspects");
    if (std::find(ran.begin(), ran.end(), suspect.id) == ran.end())
      fail("a suspect was not running");
    if (!suspect.alone) continue;
    if (owner.kills_at < 0) fail("an innocent sequence is blamed for a death");
    if (suspect.deaths < crashes_max) continue;
    plans->end(suspect.id);
    owner.ended = true;
    --open;
    ++out.condemned;
  }
  flying.clear();
  executed.clear();
  for (cell& c : memory) c = {};
}

outcome run(std::uint64_t seed, fault planted) {
  world w(seed, planted);
  w.start();
  const int actions = w.random.between(100, 500);
  const int cancel_percent = w.random.below(4), loss_percent = w.random.below(2);
  for (int i = 0; i < actions && w.out.failure.empty(); ++i) {
    const int roll = w.random.below(100);
    if (roll < 14)
      w.add_client();
    else if (roll < 14 + cancel_percent)
      w.cancel_one();
    else if (roll < 18 + loss_percent) {
      if (roll >= 18) w.lose_device(true);
    } else if (roll < 55)
      w.plan_one();
    else if (roll < 65 && w.executed.size() < w.flying.size())
      w.run_next();
    else
      w.complete_one();
    if (roll == 99 && w.random.chance(20)) w.books->trim(w.random.below(8));
    if (i % 16 == 0) w.check_books();
  }
  // No more faults: everything must come to its end within a bound on the work left.
  int bound = 0, poisons = 0;
  for (const auto& [id, c] : w.clients) {
    if (c.ended) continue;
    bound += 8 * static_cast<int>(c.prompt.size() + static_cast<std::size_t>(c.max_tokens)) + 8;
    poisons += c.kills_at < 0 ? 0 : 1;
  }
  bound *= 1 + 4 * poisons;  // each death computes everything again
  while (w.open > 0 && w.out.failure.empty()) {
    w.plan_one();
    if (w.flying.empty()) w.fail("work is left, nothing is in flight and nothing is planned");
    w.complete_one();
    if (--bound < 0) w.fail("the queue does not empty");
    if (bound % 16 == 0) w.check_books();
  }
  while (!w.flying.empty() && w.out.failure.empty()) w.complete_one();
  if (w.out.failure.empty() && !w.plans->idle())
    w.fail("nothing is left and the scheduler is not idle");
  if (w.out.failure.empty()) w.check_books();
  if (w.out.failure.empty()) w.check_eviction_order();
  const auto stats = w.plans->stats();
  w.out.preemptions = stats.preemptions;
  w.out.recovered = stats.recovered;
  return w.out;
}

}  // namespace foretoken::sim
