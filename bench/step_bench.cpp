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
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/backend.hpp"
#include "model/forward.hpp"
#include "model/model_file.hpp"

namespace {

using namespace foretoken;
using clock_type = std::chrono::steady_clock;

struct settings {
  std::string model;
  cpu::options chosen;
  bool smoke = false;
};

std::string default_model() {
  if (const char* given = std::getenv("FORETOKEN_MODEL")) return given;
  const char* home = std::getenv("HOME");
  return std::string(home ? home : "") + "/.cache/foretoken/SmolLM2-135M-Instruct.Q4_1.gguf";
}

int pages_for(int positions) {
  return (positions + page_tokens - 1) / page_tokens;
}

// `count` sequences, each with its own pages, of `rows` tokens at `position`.
model::micro_batch batch_of(int count, int position, int rows, int vocabulary) {
  static const auto greedy = [] {
    auto made = std::make_shared<model::sampling_parameters>();
    made->temperature = 0;
    return made;
  }();
  model::micro_batch batch;
  const int pages = pages_for(position + rows);
  for (int s = 0; s < count; ++s) {
    model::slice one;
    one.sequence = sequence_id{static_cast<std::uint64_t>(s)};
    one.position = position;
    for (int i = 0; i < rows; ++i) one.tokens.push_back((7 * i + 13 * s + 5) % vocabulary);
    for (int p = 0; p < pages; ++p) one.pages.push_back(page_id{s * pages + p});
    one.sample_last = true;
    one.sampling = greedy;
    batch.slices.push_back(std::move(one));
  }
  return batch;
}

struct timing {
  double median = 0, best = 0, p99 = 0;
};

bool measure(model::ops& ops, const model::micro_batch& batch, int rounds, timing& out) {
  std::vector<double> seconds;
  for (int i = -2; i < rounds; ++i) {  // two warm-up rounds
    const auto start = clock_type::now();
    auto done = model::forward(ops, batch);
    if (!done) {
      std::fprintf(stderr, "step_bench: %s\n", to_string(done.error()).c_str());
      return false;
    }
    if (i >= 0) seconds.push_back(std::chrono::duration<double>(clock_type::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  out = {seconds[seconds.size() / 2], seconds.front(), seconds[seconds.size() * 99 / 100]};
  return true;
}

bool run(model::ops& ops, const settings& with) {
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
    // Prefill in turns of few sequences so that rows_max is kept.
    const auto filled = batch_of(count, 0, context, vocabulary);
    const auto decode = batch_of(count, context - 1, 1, vocabulary);
    for (std::size_t s = 0; s < filled.slices.size(); ++s) {
      model::micro_batch one;
      one.slices.push_back(filled.slices[s]);
      if (!model::forward(ops, one)) return false;
    }
    if (!measure(ops, decode, with.smoke ? 2 : 40, t)) return false;
    show("decode", count, context, t);
  }
  return true;
}

bool parse(int argc, char** argv, settings& out) {
  out.model = default_model();
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--smoke") {
      out.smoke = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    if (flag == "--model")
      out.model = value;
    else if (flag == "--threads")
      out.chosen.threads = std::atoi(value.c_str());
    else if (flag == "--precision" && value == "exact")
      out.chosen.precision = cpu::numerics::exact;
    else if (flag == "--precision" && value == "fast")
      out.chosen.precision = cpu::numerics::fast;
    else if (flag == "--isa" && value == "avx512")
      out.chosen.path = cpu::isa::avx512;
    else if (flag == "--isa" && value == "avx2")
      out.chosen.path = cpu::isa::avx2;
    else if (flag == "--isa" && value == "portable")
      out.chosen.path = cpu::isa::portable;
    else
      return false;
  }
  return true;
}

int fail(const error& why) {
  std::fprintf(stderr, "step_bench: %s\n", to_string(why).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  settings with;
  if (!parse(argc, argv, with)) {
    std::fprintf(stderr,
                 "step_bench [--model PATH] [--precision exact|fast] [--threads N] [--isa NAME] "
                 "[--smoke]\n");
    return 2;
  }
  if (with.smoke) with.model = FORETOKEN_TEST_DATA "/reference/architectures/llama";
  auto file = model::model_file::load(with.model);
  if (!file) return fail(file.error());
  auto weights = cpu::prepare_weights(**file, with.chosen);
  if (!weights) return fail(weights.error());
  auto ops = cpu::make_ops(*weights, with.chosen);
  if (!ops) return fail(ops.error());
  std::printf("model %s, path %s, threads %d (0 = automatic), greedy sampling included\n",
              with.model.c_str(),
              with.chosen.path == cpu::isa::automatic ? cpu::best_isa_name() : "forced",
              with.chosen.threads);
  return run(**ops, with) ? 0 : 1;
}
