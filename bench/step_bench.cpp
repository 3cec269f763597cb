// SPDX-License-Identifier: Apache-2.0
// Whole steps of a real model on the CPU device: prefill of one prompt and decode of a batch,
// logits of the last rows sampled greedily.
//   step_bench [--model PATH] [--precision exact|fast] [--threads N] [--isa avx512|avx2|portable]
//   [--smoke]
// Without --model: $FORETOKEN_MODEL, else the default cache; --smoke uses a tiny model of the
// tests.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "bench/steps.hpp"

namespace {

using namespace foretoken;
using bench::batch_of;
using clock_type = std::chrono::steady_clock;

struct timing {
  double median = 0, best = 0, p99 = 0;
};

bool measure(model::ops& ops, const model::micro_batch& batch, int rounds, timing& out) {
  std::vector<double> seconds;
  for (int i = -2; i < rounds; ++i) {  // two warm-up rounds
    const auto start = clock_type::now();
    if (!bench::run_step(ops, batch)) return false;
    if (i >= 0) seconds.push_back(std::chrono::duration<double>(clock_type::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  out = {seconds[seconds.size() / 2], seconds.front(), seconds[seconds.size() * 99 / 100]};
  return true;
}

bool run(model::ops& ops, const bench::step_settings& with) {
  const int vocabulary = ops.shape().vocabulary;
  const int context = with.smoke ? 16 : 128;
  std::printf("%-10s %6s %8s %10s %10s %10s %12s\n", "what", "rows", "context", "median ms",
              "best ms", "p99 ms", "tokens/s");
  const auto show = [&](const char* what, int rows, int at, const timing& t) {
    std::printf("%-10s %6d %8d %10.3f %10.3f %10.3f %12.1f\n", what, rows, at, t.median * 1e3,
                t.best * 1e3, t.p99 * 1e3, rows / t.median);
  };
  timing t;
  for (const int rows : with.smoke ? std::vector<int>{8} : std::vector<int>{16, 128, 512}) {
    if (!measure(ops, batch_of(1, 0, rows, vocabulary), with.smoke ? 2 : 7, t)) return false;
    show("prefill", rows, 0, t);
  }
  for (const int count : with.smoke ? std::vector<int>{1, 3} : std::vector<int>{1, 8, 32}) {
    if (!bench::fill_context(ops, count, context)) return false;
    const auto decode = batch_of(count, context - 1, 1, vocabulary);
    if (!measure(ops, decode, with.smoke ? 2 : 40, t)) return false;
    show("decode", count, context, t);
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  bench::step_settings with;
  if (!bench::parse_step_flags(count, arguments, with)) return 2;
  const auto ops = bench::make_ops(with);
  if (!ops) return 1;
  std::printf("model %s, path %s, threads %d (0 = automatic), greedy sampling included\n",
              with.model.c_str(), cpu::path_name(with.chosen.path), with.chosen.threads);
  return run(*ops, with) ? 0 : 1;
}
