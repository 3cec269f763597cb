// SPDX-License-Identifier: Apache-2.0
#include "bench/steps.hpp"

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "model/forward.hpp"
#include "model/model_file.hpp"

namespace foretoken::bench {
namespace {

std::string default_model() {
  if (const char* given = std::getenv("FORETOKEN_MODEL")) return given;
  const char* home = std::getenv("HOME");
  return std::string(home ? home : "") + "/.cache/foretoken/SmolLM2-135M-Instruct.Q4_1.gguf";
}

int pages_for(int positions) {
  return (positions + page_tokens - 1) / page_tokens;
}

bool parse_pair(std::string_view flag, const std::string& value, step_settings& out) {
  if (flag == "--model")
    out.model = value;
  else if (flag == "--threads" && std::atoi(value.c_str()) > 0)
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
  return true;
}

bool say(const error& why) {
  std::fprintf(stderr, "%s\n", to_string(why).c_str());
  return false;
}

}  // namespace

bool parse_step_flags(int count, char** arguments, step_settings& out) {
  out.model = default_model();
  for (int i = 1; i < count; ++i) {
    const std::string_view flag = arguments[i];
    if (flag == "--smoke") {
      out.smoke = true;
    } else if (i + 1 == count || !parse_pair(flag, arguments[++i], out)) {
      std::fprintf(stderr,
                   "usage: %s [--model PATH] [--precision exact|fast] [--threads N] [--isa NAME] "
                   "[--smoke]\n",
                   arguments[0]);
      return false;
    }
  }
  if (out.smoke) out.model = FORETOKEN_TEST_DATA "/reference/architectures/llama";
  return true;
}

std::unique_ptr<model::ops> make_ops(const step_settings& with) {
  const auto file = model::model_file::load(with.model);
  if (!file) return say(file.error()), nullptr;
  auto weights = cpu::prepare_weights(**file, with.chosen);
  if (!weights) return say(weights.error()), nullptr;
  auto ops = cpu::make_ops(*weights, with.chosen);
  if (!ops) return say(ops.error()), nullptr;
  return std::move(ops).value();
}

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

bool run_step(model::ops& ops, const model::micro_batch& batch) {
  const auto done = model::forward(ops, batch);
  return done ? true : say(done.error());
}

// One sequence a step, so that rows_max is kept.
bool fill_context(model::ops& ops, int count, int context) {
  for (auto& slice : batch_of(count, 0, context, ops.shape().vocabulary).slices) {
    model::micro_batch one;
    one.slices.push_back(std::move(slice));
    if (!run_step(ops, one)) return false;
  }
  return true;
}

}  // namespace foretoken::bench
