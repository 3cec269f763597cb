// SPDX-License-Identifier: Apache-2.0
// One step on a CUDA device, from the embedding to the sampled token in host memory: random weights
// in a model's shape, every sequence at one context length, one graph a batch size.
//
//   gpu_step_bench [--form f16|w8|w4] [--smoke]
//   [--decode|--prefill|--tiles|--chosen|--attention|--beside|--sample]
//                  [--rows N,..] [--context N] [--prompt N] [--narrow] [shape ...]
//   shapes: smollm2 llama1b
//
// Decode: microseconds a step (median of the replays), tokens a second, the share of the floor of
// bytes (weights once, keys and values once), and for a host that waits for each step: from the
// launch to its end, and the call of launch. Prefill: prompts of 32 (--prompt) tokens, one
// prediction each. Tiles: the products of prefill by each kernel that can do them; chosen: by the
// usual ones. Attention: one prompt, or prompts of --prompt tokens, attention alone by small and
// large tiles by turns. Beside: steps of prefill on several streams at once. Sample: decode steps
// that draw their tokens, beside those that take the best. Narrow: without the kernels of the wide
// matrix instruction.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bench/gpu_bench_step.hpp"

namespace foretoken {
namespace {

void print_parts(bench_step& one, const bench_shape& shape) {
  for (int part = 0; part < bench_step::part_count; ++part) {
    const double alone = one.time(1u << part, 5);
    std::printf("  %6.2f", part < 5 ? alone / shape.layers : alone);
  }
}

struct chosen_tables {
  bool decode = true, prefill = true, tiles = false, smoke = false;
  bool only_chosen = false;  // of the tiles' kernels
  bool attention = false;
  bool beside = false;
  bool sample = false;
  bool narrow = false;    // without the wide matrix instruction
  std::vector<int> rows;  // empty = the table's own
  int context = 0;        // of decode; 0 = all
  int prompt_tokens = 32;
  bool own_prompt = false;  // prompt_tokens was asked for
  bool wants(int n) const {
    return rows.empty() || std::find(rows.begin(), rows.end(), n) != rows.end();
  }
};

void run_decode(const bench_model& made,
                gpu::launch_context on,
                double rate,
                const chosen_tables& chosen) {
  const bench_shape& shape = made.shape();
  const bool smoke = chosen.smoke;
  std::printf("%4s %7s %9s %11s %7s %8s %6s  %s\n", "B", "context", "us", "tokens/s", "floor",
              "waited", "call", "parts");
  for (const int context : {128, 512, 2048}) {
    for (const int rows : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      if (smoke && (rows > 8 || context > 128)) continue;
      if (!chosen.wants(rows) || (chosen.context > 0 && context != chosen.context)) continue;
      bench_step one(made, rows, 1, context, on);
      const double us = one.time(bench_step::all_parts, smoke ? 3 : 15);
      const double floor = (static_cast<double>(made.weight_bytes()) + one.kv_bytes()) / rate * 1e6;
      const auto host = one.alone(smoke ? 3 : 41);
      std::printf("%4d %7d %9.1f %11.0f %6.1f%% %8.1f %6.1f", rows, context, us, rows / us * 1e6,
                  100 * floor / us, host.whole, host.call);
      if (context == 512) print_parts(one, shape);
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

// 2 operations a weight and row; the head for one row of each prompt.
double prefill_operations(const bench_shape& shape, int prompts, int prompt_tokens) {
  const double layer = 2.0 * shape.width * shape.head_dim * (shape.heads + shape.kv_heads) +
                       3.0 * shape.width * shape.ffn;
  return 2.0 * prompts *
         (prompt_tokens * layer * shape.layers + 1.0 * shape.width * shape.vocabulary);
}

void run_prefill(const bench_model& made, gpu::launch_context on, const chosen_tables& chosen) {
  const bench_shape& shape = made.shape();
  const int prompt_tokens = chosen.prompt_tokens;
  const bool smoke = chosen.smoke;
  std::printf("prompts of %d tokens, ten alternatives\n%4s %9s %11s %8s %8s %6s  %s\n",
              prompt_tokens, "rows", "us", "tokens/s", "TFLOP/s", "waited", "call", "parts");
  for (const int prompts : {1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64}) {
    if (smoke && prompts > 2) continue;
    if (!chosen.wants(prompts * prompt_tokens) || prompts * prompt_tokens > 2048) continue;
    bench_step one(made, prompts, prompt_tokens, prompt_tokens, on);
    one.wants(12);
    const int rows = prompts * prompt_tokens;
    const double us = one.time(bench_step::all_parts, smoke ? 3 : 15);
    const auto host = one.alone(smoke ? 3 : 21);
    std::printf("%4d %9.1f %11.0f %8.1f %8.1f %6.1f", rows, us, rows / us * 1e6,
                prefill_operations(shape, prompts, prompt_tokens) / us / 1e6, host.whole,
                host.call);
    print_parts(one, shape);
    std::printf("\n");
    std::fflush(stdout);
  }
}

struct tile_name {
  gpu::product_tile tile;
  const char* name;
};
constexpr tile_name tile_names[] = {
    {gpu::product_tile::chosen, "chosen"},
    {gpu::product_tile::streamed_16x32, "streamed_16x32"},
    {gpu::product_tile::streamed_16x32_deep, "streamed_16x32_deep"},
    {gpu::product_tile::streamed_32x64, "streamed_32x64"},
    {gpu::product_tile::streamed_64x64, "streamed_64x64"},
    {gpu::product_tile::tiled_64x64, "tiled_64x64"},
    {gpu::product_tile::tiled_128x64, "tiled_128x64"},
    {gpu::product_tile::split_64x32, "split_64x32"},
    {gpu::product_tile::split_64x64, "split_64x64"},
    {gpu::product_tile::quad_64x32, "quad_64x32"},
    {gpu::product_tile::quad_64x64, "quad_64x64"},
    {gpu::product_tile::quad_64x96, "quad_64x96"},
    {gpu::product_tile::wide_128x64, "wide_128x64"},
    {gpu::product_tile::wide_128x128, "wide_128x128"},
};

void run_tiles(const bench_model& made, gpu::launch_context on, const chosen_tables& chosen) {
  const bench_shape& shape = made.shape();
  std::printf("%4s %-20s  us a layer: attention input, attention output, ffn input, ffn output\n",
              "rows", "kernel");
  for (const int rows : {16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 2048}) {
    if (chosen.smoke && rows > 64) continue;
    if (!chosen.wants(rows)) continue;
    bench_step one(made, rows / 16, 16, 32, on);
    for (const tile_name& each : tile_names) {
      if (chosen.only_chosen && each.tile != gpu::product_tile::chosen) continue;
      one.kernels(each.tile);
      std::printf("%4d %-20s", rows, each.name);
      for (const unsigned part : {2u, 4u, 8u, 16u}) {
        std::printf("  %6.2f", one.time(part, 5) / shape.layers);
      }
      std::printf("\n");
    }
    std::fflush(stdout);
  }
}

// Three rounds: the median of each is printed.
void run_attention(const bench_model& made, gpu::launch_context on, const chosen_tables& chosen) {
  const bench_shape& shape = made.shape();
  std::printf("attention alone, us a layer by tiles of columns; * as a step would take them\n");
  for (const int rows : {128, 256, 512, 1024, 2048}) {
    if (chosen.smoke && rows > 128) continue;
    if (!chosen.wants(rows)) continue;
    const int tokens = chosen.own_prompt ? std::min(chosen.prompt_tokens, rows) : rows;
    bench_step one(made, rows / tokens, tokens, tokens, on);
    const int usual = one.usual_columns();
    for (int round = 0; round < (chosen.smoke ? 1 : 3); ++round) {
      std::printf("%4d rows, prompts of %4d ", rows, tokens);
      for (const int columns : {gpu::query_columns, 64, 128}) {
        if (!one.has_columns(columns)) continue;
        one.attention_columns(columns);
        const double us = one.time(bench_step::attention_part, chosen.smoke ? 3 : 15);
        std::printf("  %3d:%8.2f%c", columns, us / shape.layers, columns == usual ? '*' : ' ');
      }
      std::printf("\n");
    }
    std::fflush(stdout);
  }
}

// Microseconds until each of `count` steps on streams of their own is done, one after the other on
// each stream.
double time_beside(const bench_model& made,
                   gpu::launch_context on,
                   int count,
                   int prompts,
                   const chosen_tables& chosen) {
  const int tokens = chosen.prompt_tokens;
  std::vector<cudaStream_t> streams(static_cast<std::size_t>(count));
  std::vector<std::unique_ptr<bench_step>> steps;
  for (cudaStream_t& each : streams) {
    must(cudaStreamCreateWithFlags(&each, cudaStreamNonBlocking), "stream");
    on.stream = each;
    steps.push_back(std::make_unique<bench_step>(made, prompts, tokens, tokens, on));
    steps.back()->wants(12);
    steps.back()->prepare();
  }
  const int turns = chosen.smoke ? 2 : 60;
  const auto run = [&] {
    const auto begun = std::chrono::steady_clock::now();
    for (int i = 0; i < turns; ++i) {
      for (auto& each : steps) each->replay();
    }
    must(cudaDeviceSynchronize(), "steps");
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begun;
    return took.count() / turns;
  };
  run();
  const double us = std::min(run(), run());
  steps.clear();
  for (const cudaStream_t each : streams) must(cudaStreamDestroy(each), "cudaStreamDestroy");
  return us;
}

void run_beside(const bench_model& made, gpu::launch_context on, const chosen_tables& chosen) {
  std::printf("us until each of 1, 2, 3, 4 steps beside each other is done\n");
  for (const int prompts : {1, 2, 3, 4}) {
    if (chosen.smoke && prompts > 1) continue;
    if (!chosen.wants(prompts * chosen.prompt_tokens)) continue;
    std::printf("%4d", prompts * chosen.prompt_tokens);
    for (const int count : {1, 2, 3, 4}) {
      std::printf(" %9.1f", time_beside(made, on, count, prompts, chosen));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

struct sample_kind {
  const char* name;
  gpu::draw_parameters how;
};
// Logits of random weights are flat: a low temperature makes them as uneven as a model's.
const sample_kind sample_kinds[] = {
    {"all", {0, 0.1f, 1, 0, 0, 0, 1}},
    {"min_p 0.05", {0, 0.1f, 1, 0.05f, 0, 0, 1}},
    {"top_k 50", {0, 0.1f, 1, 0, 50, 0, 1}},
    {"top_p 0.9", {0, 0.1f, 0.9f, 0, 0, 0, 1}},
};

void run_sample(const bench_model& made, gpu::launch_context on, const chosen_tables& chosen) {
  const int replays = chosen.smoke ? 3 : 15;
  std::printf("us a step at context 512: the best tokens; drawn ones (rows left to the host)\n");
  for (const int rows : {1, 8, 32, 64, 128, 256}) {
    if (chosen.smoke && rows > 8) continue;
    if (!chosen.wants(rows)) continue;
    bench_step one(made, rows, 1, 512, on);
    std::printf("%4d %9.1f", rows, one.time(bench_step::all_parts, replays));
    for (const sample_kind& each : sample_kinds) {
      one.draws(each.how);
      const double us = one.time(bench_step::all_parts, replays);
      std::printf("  %s %.1f (%d)", each.name, us, one.left_to_host());
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

std::vector<int> numbers_of(const std::string& text) {
  std::vector<int> out;
  std::stringstream words(text);
  for (std::string one; std::getline(words, one, ',');) out.push_back(std::stoi(one));
  return out;
}

void run_shape(const bench_shape& shape,
               gpu::weight_form form,
               gpu::launch_context on,
               double rate,
               const chosen_tables& chosen) {
  const bench_model made(shape, form);
  std::printf(
      "%s, weights %.1f MB; us a step; parts alone, us a layer: attention,\nattention input, "
      "attention output, ffn input, ffn output; us a step: head and digest\n",
      shape.name, static_cast<double>(made.weight_bytes()) / 1e6);
  if (chosen.decode) run_decode(made, on, rate, chosen);
  if (chosen.prefill) run_prefill(made, on, chosen);
  if (chosen.tiles) run_tiles(made, on, chosen);
  if (chosen.attention || chosen.smoke) run_attention(made, on, chosen);
  if (chosen.beside || chosen.smoke) run_beside(made, on, chosen);
  if (chosen.sample || chosen.smoke) run_sample(made, on, chosen);
}

}  // namespace
}  // namespace foretoken

int main(int count, char** arguments) {
  using namespace foretoken;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: skipped\n");
    return 77;
  }
  gpu::weight_form form = gpu::weight_form::f16;
  chosen_tables chosen;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    if (word == "--smoke") {
      chosen.smoke = true;
    } else if (word == "--decode") {
      chosen.prefill = false;
    } else if (word == "--prefill") {
      chosen.decode = false;
    } else if (word == "--tiles") {
      chosen.decode = chosen.prefill = false;
      chosen.tiles = true;
    } else if (word == "--chosen") {
      chosen.decode = chosen.prefill = false;
      chosen.tiles = chosen.only_chosen = true;
    } else if (word == "--attention") {
      chosen.decode = chosen.prefill = false;
      chosen.attention = true;
    } else if (word == "--beside") {
      chosen.decode = chosen.prefill = false;
      chosen.beside = true;
    } else if (word == "--sample") {
      chosen.decode = chosen.prefill = false;
      chosen.sample = true;
    } else if (word == "--narrow") {
      chosen.narrow = true;
    } else if (word == "--rows" && i + 1 < count) {
      chosen.rows = numbers_of(arguments[++i]);
    } else if (word == "--context" && i + 1 < count) {
      chosen.context = std::stoi(arguments[++i]);
    } else if (word == "--prompt" && i + 1 < count) {
      chosen.prompt_tokens = std::stoi(arguments[++i]);
      chosen.own_prompt = true;
    } else if (word == "w8") {
      form = gpu::weight_form::w8;
    } else if (word == "w4") {
      form = gpu::weight_form::w4;
    } else if (word != "--form" && word != "f16") {
      names.push_back(word);
    }
  }
  cudaDeviceProp found{};
  must(cudaGetDeviceProperties(&found, 0), "device");
  gpu::launch_context on;
  must(cudaStreamCreateWithFlags(&on.stream, cudaStreamNonBlocking), "stream");
  on.multiprocessors = found.multiProcessorCount;
  on.shared_bytes_max = static_cast<int>(found.sharedMemPerBlockOptin);
  on.wide_mma = found.major == 9 && !chosen.narrow;
  // Measured on this kind of device: 1 GB read by one simple kernel (H100 80GB HBM3, 2026-11-24).
  const double rate = 3.04e12;
  std::printf("%s, %d multiprocessors; floor at %.2f TB/s\n", found.name, on.multiprocessors,
              rate / 1e12);
  for (const bench_shape& shape : shapes) {
    const bool wanted =
        names.empty() || std::find(names.begin(), names.end(), shape.name) != names.end();
    if (wanted) run_shape(shape, form, on, rate, chosen);
  }
  return 0;
}
