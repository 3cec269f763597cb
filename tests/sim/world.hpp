// SPDX-License-Identifier: Apache-2.0
#pragma once
// What one run of the simulation holds: scheduler and cache, the device's memory, the clients.
// simulation.cpp moves it, checks.cpp tells what must hold.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "cache/kv_cache.hpp"
#include "scheduler/scheduler.hpp"
#include "tests/sim/simulation.hpp"

namespace foretoken::sim {

using cache::cache_namespace;

inline constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

struct dice {
  std::uint64_t state;
  std::uint64_t next() noexcept { return mix(state++); }
  int below(int n) noexcept { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  int between(int low, int high) noexcept { return low + below(high - low + 1); }
  bool chance(int percent) noexcept { return below(100) < percent; }
};

struct cell {
  token id = -1;
  int position = -1;
  std::uint64_t space = 0;
};

struct client {
  sequence_id id{};
  cache_namespace space{};
  std::vector<token> prompt, stream;
  int max_tokens = 0;
  bool score = false, done_seen = false, ended = false;
  int scores_seen = 0;
  int cached = -1;    // prompt tokens that its first admission reused; -1: it was in no step yet
  int kills_at = -1;  // poison: the device dies when it computes this position
  int killed = 0;     // devices so far
};

struct world {
  world(std::uint64_t seed, fault what) : random{mix(seed)}, planted(what) {}

  void fail(std::string text) {
    if (out.failure.empty()) out.failure = std::move(text);
  }
  cell& at(page_id page, int offset) {
    return memory[static_cast<std::size_t>(page) * page_tokens + static_cast<std::size_t>(offset)];
  }
  void start();
  void add_client();
  void cancel_one();
  void plan_one();
  void execute(const model::micro_batch& batch);
  model::slice_result compute(const model::slice& part);
  std::vector<token> read_history(const model::slice& part, const client& owner, int count);
  void complete_one();
  void take(const scheduler::progress& news);
  void run_next();
  void run_any();
  void lose_device(bool ordered);
  void die_of(client& poison);
  client* poison_in(const model::micro_batch& batch);
  void check_plan(const model::micro_batch& batch);
  void check_place(int place, int rows);
  void check_shared_prompts(const model::micro_batch& batch);
  void check_decodes();
  void check_found_whole(const client& finished);
  void check_eviction_order();
  void check_books();
  void fold(std::uint64_t value) { out.fingerprint = mix(out.fingerprint ^ value); }

  dice random;
  fault planted;
  outcome out;
  scheduler::options limits;
  std::unique_ptr<cache::kv_cache> books;
  std::unique_ptr<scheduler::batch_scheduler> plans;
  std::vector<cell> memory;
  std::map<sequence_id, client> clients;    // also ended ones while a micro-batch may hold them
  std::vector<std::vector<token>> stems;    // shared beginnings of prompts
  std::deque<model::micro_batch> flying;    // planned, oldest first
  std::deque<model::step_result> executed;  // results of the oldest ones of `flying`
  int flights = 1;                          // more: they run beside each other, `executed` is empty
  std::uint64_t next_id = 1;
  sequence_id last_finished{};
  int open = 0;
  int poison_percent = 0, crashes_max = 3;
};

}  // namespace foretoken::sim
