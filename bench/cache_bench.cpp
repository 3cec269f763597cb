// SPDX-License-Identifier: Apache-2.0
// What the books cost: looking a prompt up, publishing it again, a whole life of a sequence in the
// scheduler without a device. Prints median and p99 of one operation.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cache/kv_cache.hpp"
#include "model/sampling.hpp"
#include "scheduler/scheduler.hpp"

using namespace foretoken;

namespace {

constexpr cache::cache_namespace space{1};
volatile std::int64_t keep = 0;

std::vector<token> prompt(int n, int salt) {
  std::vector<token> out(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) out[static_cast<std::size_t>(i)] = (i * 31 + salt * 7919) % 49152;
  return out;
}

template <class Work>
void measure(const char* name, int rounds, double items, const char* unit, Work&& work) {
  std::vector<double> micros;
  for (int i = -rounds / 10; i < rounds; ++i) {  // the first tenth warms up
    const auto start = std::chrono::steady_clock::now();
    work(i < 0 ? -i : i);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (i >= 0) micros.push_back(took.count());
  }
  std::sort(micros.begin(), micros.end());
  const double median = micros[micros.size() / 2];
  const double p99 = micros[micros.size() * 99 / 100];
  std::printf("%-34s median %9.2f us   p99 %9.2f us   %8.1f M %s/s\n", name, median, p99,
              items / median, unit);
}

void bench_books(int rounds) {
  cache::kv_cache books(4096);
  std::vector<std::vector<token>> prompts;
  for (int i = 0; i < 32; ++i) {
    prompts.push_back(prompt(1000, i));
    const auto pages = *books.allocate(63);
    books.publish(space, prompts.back(), pages);
    books.release(pages);
  }
  const auto& one = prompts[7];
  measure("peek, 1000 tokens", rounds, 1000, "tokens", [&](int i) {
    keep = keep + books.peek(space, prompts[static_cast<std::size_t>(i) % 32]);
  });
  measure("lookup and release, 1000 tokens", rounds, 1000, "tokens", [&](int) {
    const auto found = books.lookup(space, one);
    books.release(found.pages);
    keep = keep + found.tokens;
  });
  const auto held = books.lookup(space, one);
  measure("publish again, 1000 tokens", rounds, 1000, "tokens",
          [&](int) { books.publish(space, one, held.pages); });
  books.release(held.pages);
  measure("allocate with eviction, 64 pages", rounds, 64, "pages", [&](int i) {
    const auto fresh = prompt(1024, 1000 + i);
    const auto pages = *books.allocate(64);
    books.publish(space, fresh, pages);
    books.release(pages);
  });
}

void bench_scheduler(int rounds) {
  cache::kv_cache books(4096);
  scheduler::batch_scheduler plans({}, books);
  const auto sampling = std::make_shared<const model::sampling_parameters>();
  for (int i = 0; i < 64; ++i) {
    scheduler::new_sequence one;
    one.id = sequence_id{static_cast<std::uint64_t>(i + 1)};
    one.space = space;
    one.prompt = std::make_shared<const std::vector<token>>(prompt(64, i));
    one.sampling = sampling;
    one.max_tokens = 900;
    if (!plans.add(one)) std::abort();
  }
  const auto step = [&] {
    const auto batch = plans.plan();
    if (!batch) std::abort();
    model::step_result done;
    done.step = batch->step;
    for (const auto& part : batch->slices) {
      model::slice_result result;
      result.sequence = part.sequence;
      if (part.sample_last) result.next.id = 5;
      done.slices.push_back(std::move(result));
    }
    keep = keep + static_cast<std::int64_t>(plans.complete(done).size());
  };
  for (int i = 0; i < 16; ++i) step();
  measure("plan and complete, 64 decode rows", std::min(rounds, 700), 64, "rows",
          [&](int) { step(); });
}

void bench_sampling(int rounds) {
  std::vector<float> logits(49152);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>((i * 2654435761u) % 20011) / 1000.0f - 10.0f;
  }
  model::sampling_parameters greedy, top_k, nucleus, plain, explained;
  greedy.temperature = 0;
  top_k.top_k = 40;
  nucleus.top_p = 0.9f;
  explained.temperature = 0;
  explained.logprobs = 5;
  const auto run = [&](const char* name, const model::sampling_parameters& p) {
    measure(name, rounds, 49152, "logits", [&](int i) {
      keep = keep + model::sample(logits, p, {}, {}, static_cast<std::uint64_t>(i)).id;
    });
  };
  run("sample greedy, 49152 logits", greedy);
  run("sample top_k 40", top_k);
  run("sample top_p 0.9", nucleus);
  run("sample temperature 1", plain);
  run("sample greedy, 5 logprobs", explained);
}

}  // namespace

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  const int rounds = smoke ? 20 : 2000;
  std::printf("cache_bench: compiler %s, %d rounds, no seed: inputs are formulas\n", __VERSION__,
              rounds);
  bench_books(rounds);
  bench_scheduler(rounds);
  bench_sampling(rounds);
  return 0;
}
