// SPDX-License-Identifier: Apache-2.0
// One step on a CUDA device, from the embedding to the sampled token in host memory: random weights
// in a model's shape, every sequence at one context length, one graph a batch size.
//
//   gpu_step_bench [--form f16|w8|w4] [--smoke] [--decode|--prefill|--tiles] [--rows N] [shape ...]
//   shapes: smollm2 llama1b
//
// Decode: microseconds a step (median of the replays), tokens a second, the share of the floor of
// bytes (weights once, keys and values once), and for a host that waits for each step: from the
// launch to its end, and the call of launch. Prefill: prompts of 32 tokens, one prediction each.
// Tiles: the products of prefill by each kernel that can do them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/gpu_step_model.hpp"

namespace foretoken {
namespace {

// Everything of one batch size and context.
class bench_step {
 public:
  // `sequences` of `tokens` rows each, the last at position context - 1.
  bench_step(
      const bench_model& from, int sequences, int tokens, int context, gpu::launch_context on)
      : model_(from), rows_(sequences * tokens), context_(context), on_(on) {
    const int rows = rows_;
    const bench_shape& shape = from.shape();
    hyper_.width = shape.width;
    hyper_.heads = shape.heads;
    hyper_.kv_heads = shape.kv_heads;
    hyper_.head_dim = shape.head_dim;
    hyper_.ffn = shape.ffn;
    const auto bytes = gpu::workspace_bytes(hyper_, rows, rows, bench_model::context_max);
    work_.x = static_cast<float*>(memory_.take(bytes.x));
    work_.normed = static_cast<std::uint16_t*>(memory_.take(bytes.normed));
    work_.squares = static_cast<float*>(memory_.take(bytes.squares));
    work_.q = static_cast<std::uint16_t*>(memory_.take(bytes.q));
    work_.attended = static_cast<std::uint16_t*>(memory_.take(bytes.attended));
    work_.hidden = static_cast<std::uint16_t*>(memory_.take(bytes.hidden));
    work_.raw = static_cast<float*>(memory_.take(bytes.raw));
    work_.partial = static_cast<float*>(memory_.take(bytes.partial));
    work_.arrived = static_cast<std::uint32_t*>(memory_.take(bytes.arrived));
    const int pages_each = (context + 16) / 16;
    pool_ = {nullptr, sequences * pages_each, shape.kv_heads, shape.head_dim};
    pool_.base = memory_.take<std::uint16_t>(at(shape.layers) * pool_.layer_values());
    static const filler values;
    values.halves(pool_.base, at(shape.layers) * pool_.layer_values() * 2);
    std::vector<std::int32_t> words, positions, tables, pages;
    std::vector<gpu::attention_tile> tiles;
    const int tile_rows = gpu::attention_tile_rows(shape.heads, shape.kv_heads);
    for (int r = 0; r < rows; ++r) {
      const int i = r % tokens;
      words.push_back((r * 7919 + 1) % shape.vocabulary);
      positions.push_back(context - tokens + i);
      tables.push_back(r / tokens);
      if (i % tile_rows == 0) tiles.push_back({r, std::min(tile_rows, tokens - i)});
      if (i + 1 < tokens) continue;
      which_.push_back(r);
      for (int p = 0; p < pages_each; ++p) pages.push_back(p * sequences + r / tokens);
    }
    tiles.resize(at(rows));  // as a step pads them
    token_ = put(words);
    step_rows_ = {token_, put(positions), put(tables), put(pages), pages_each, rows};
    tiles_ = put(tiles);
    which_there_ = put(which_);
    logits_ = memory_.take<float>(which_.size() * at(shape.vocabulary));
    scratch_ = memory_.take(gpu::digest_scratch_bytes(sequences, shape.vocabulary));
    must(cudaHostAlloc(reinterpret_cast<void**>(&digests_),
                       which_.size() * sizeof(gpu::logits_digest), cudaHostAllocMapped),
         "pinned");
  }
  ~bench_step() { cudaFreeHost(digests_); }

  double kv_bytes() const {
    const bench_shape& shape = model_.shape();
    return 2.0 * 2.0 * shape.layers * shape.kv_heads * shape.head_dim * context_ *
           static_cast<double>(which_.size());
  }

  // parts, as bits: attention, attention input, attention output, ffn input, ffn output, head and
  // digest
  static constexpr int part_count = 6;
  static constexpr unsigned all_parts = (1u << part_count) - 1;
  void queue(unsigned parts) {
    const bench_shape& shape = model_.shape();
    gpu::launch_context on = on_;
    on.dependent = false;
    gpu::embed_arguments embed{step_rows_, model_.head, {},
                               1,          work_,       model_.layers[0].attention_norm};
    must(gpu::launch_embed(on, embed), "embed");
    on.dependent = on_.dependent;
    for (int i = 0; i < shape.layers; ++i) {
      const bench_layer& layer = model_.layers[at(i)];
      const bool last = i + 1 == shape.layers;
      std::uint16_t* const kv = pool_.base + at(i) * pool_.layer_values();
      gpu::attention_input_arguments in;
      in.rows = step_rows_;
      in.work = work_;
      in.norm = layer.attention_norm;
      in.qkv = layer.qkv;
      in.heads = shape.heads;
      in.kv_heads = shape.kv_heads;
      in.head_dim = shape.head_dim;
      in.angles = model_.angles;
      in.pairs = shape.head_dim / 2;
      in.query_scale = 0.125f;
      in.kv = kv;
      if ((parts & 2) != 0) must(gpu::launch_attention_input(on, in), "attention input");
      gpu::attention_arguments attend;
      attend.rows = step_rows_;
      attend.work = work_;
      attend.tiles = tiles_;
      attend.tile_count = rows_;
      attend.spans_max = gpu::attention_spans(context_);
      attend.positions_max = context_;
      attend.heads = shape.heads;
      attend.kv_heads = shape.kv_heads;
      attend.head_dim = shape.head_dim;
      attend.kv = kv;
      if ((parts & 1) != 0) must(gpu::launch_attention(on, attend), "attention");
      gpu::residual_arguments out{rows_, work_, layer.o, shape.width, {}, layer.ffn_norm};
      if ((parts & 4) != 0) must(gpu::launch_attention_output(on, out), "attention output");
      gpu::ffn_input_arguments up;
      up.rows = rows_;
      up.work = work_;
      up.norm = layer.ffn_norm;
      up.matrix = layer.gate_up;
      up.ffn = shape.ffn;
      if ((parts & 8) != 0) must(gpu::launch_ffn_input(on, up), "ffn input");
      out.matrix = layer.down;
      out.next_norm = last ? model_.final_norm : model_.layers[at(i + 1)].attention_norm;
      if ((parts & 16) != 0) must(gpu::launch_ffn_output(on, out), "ffn output");
    }
    if ((parts & 32) == 0) return;
    gpu::head_arguments head;
    head.rows = static_cast<int>(which_.size());
    head.which = which_there_;
    head.work = work_;
    head.norm = model_.final_norm;
    head.matrix = model_.head;
    head.logits = logits_;
    must(gpu::launch_head(on, head), "head");
    gpu::digest_arguments digest{head.rows, logits_,  shape.vocabulary, shape.vocabulary,
                                 top_,      scratch_, digests_,         nullptr};
    must(gpu::launch_digest(on, digest), "digest");
  }

  void wants(int top) { top_ = top; }  // entries of a digest
  void kernels(gpu::product_tile tile) { on_.tile = tile; }
  struct host_times {
    double call = 0, whole = 0;  // us: of the launch, and until the step is seen to have ended
  };
  // One step at a time, as an executor without a step in reserve.
  host_times alone(int replays) {
    cudaGraphExec_t const ready = record(all_parts);
    std::vector<double> calls, wholes;
    using clock = std::chrono::steady_clock;
    const auto us = [](clock::duration d) {
      return std::chrono::duration<double, std::micro>(d).count();
    };
    for (int i = 0; i < replays; ++i) {
      const auto begun = clock::now();
      must(cudaGraphLaunch(ready, on_.stream), "replay");
      const auto called = clock::now();
      must(cudaStreamSynchronize(on_.stream), "step");
      calls.push_back(us(called - begun));
      wholes.push_back(us(clock::now() - begun));
    }
    cudaGraphExecDestroy(ready);
    return {median(calls), median(wholes)};
  }

  // Median microseconds of a replay among others.
  double time(unsigned parts, int replays) {
    cudaGraphExec_t const ready = record(parts);
    cudaEvent_t before = nullptr, after = nullptr;
    must(cudaEventCreate(&before), "event");
    must(cudaEventCreate(&after), "event");
    std::vector<double> times;
    for (int i = 0; i < replays + 3; ++i) {
      must(cudaEventRecord(before, on_.stream), "event");
      for (int k = 0; k < 5; ++k) must(cudaGraphLaunch(ready, on_.stream), "replay");
      must(cudaEventRecord(after, on_.stream), "event");
      must(cudaEventSynchronize(after), "step");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, before, after), "event");
      if (i >= 3) times.push_back(static_cast<double>(ms) * 200);
    }
    cudaGraphExecDestroy(ready);
    cudaEventDestroy(before);
    cudaEventDestroy(after);
    return median(times);
  }

 private:
  static double median(std::vector<double>& of) {
    std::sort(of.begin(), of.end());
    return of[of.size() / 2];
  }
  cudaGraphExec_t record(unsigned parts) {
    queue(parts);
    must(cudaStreamSynchronize(on_.stream), "step");
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    must(cudaStreamBeginCapture(on_.stream, cudaStreamCaptureModeThreadLocal), "capture");
    queue(parts);
    must(cudaStreamEndCapture(on_.stream, &graph), "capture");
    must(cudaGraphInstantiate(&ready, graph, 0), "graph");
    must(cudaGraphUpload(ready, on_.stream), "graph");
    cudaGraphDestroy(graph);
    return ready;
  }
  template <class T>
  T* put(const std::vector<T>& values) {
    auto* const out = memory_.take<T>(values.size());
    must(cudaMemcpy(out, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
    return out;
  }
  const bench_model& model_;
  int rows_, context_;
  int top_ = 1;
  gpu::launch_context on_;
  model::hyperparameters hyper_;
  memory memory_;
  gpu::workspace work_;
  gpu::kv_pool_view pool_;
  gpu::step_rows step_rows_;
  std::int32_t* token_ = nullptr;
  std::int32_t* which_there_ = nullptr;
  gpu::attention_tile* tiles_ = nullptr;
  std::vector<std::int32_t> which_;
  float* logits_ = nullptr;
  void* scratch_ = nullptr;
  gpu::logits_digest* digests_ = nullptr;
};

void print_parts(bench_step& one, const bench_shape& shape) {
  for (int part = 0; part < bench_step::part_count; ++part) {
    const double alone = one.time(1u << part, 5);
    std::printf("  %6.2f", part < 5 ? alone / shape.layers : alone);
  }
}

void run_decode(const bench_model& made, gpu::launch_context on, double rate, bool smoke) {
  const bench_shape& shape = made.shape();
  std::printf("%4s %7s %9s %11s %7s %8s %6s  %s\n", "B", "context", "us", "tokens/s", "floor",
              "waited", "call", "parts");
  for (const int context : {128, 512, 2048}) {
    for (const int rows : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      if (smoke && (rows > 8 || context > 128)) continue;
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

constexpr int prompt_tokens = 32;

// 2 operations a weight and row; the head for one row of each prompt.
double prefill_operations(const bench_shape& shape, int prompts) {
  const double layer = 2.0 * shape.width * shape.head_dim * (shape.heads + shape.kv_heads) +
                       3.0 * shape.width * shape.ffn;
  return 2.0 * prompts *
         (prompt_tokens * layer * shape.layers + 1.0 * shape.width * shape.vocabulary);
}

void run_prefill(const bench_model& made, gpu::launch_context on, bool smoke, int only_rows) {
  const bench_shape& shape = made.shape();
  std::printf("prompts of %d tokens, ten alternatives\n%4s %9s %11s %8s %8s %6s  %s\n",
              prompt_tokens, "rows", "us", "tokens/s", "TFLOP/s", "waited", "call", "parts");
  for (const int prompts : {1, 2, 4, 8, 12, 16, 24, 32, 48, 64}) {
    if (smoke && prompts > 2) continue;
    if (only_rows > 0 && prompts * prompt_tokens != only_rows) continue;
    bench_step one(made, prompts, prompt_tokens, prompt_tokens, on);
    one.wants(12);
    const int rows = prompts * prompt_tokens;
    const double us = one.time(bench_step::all_parts, smoke ? 3 : 15);
    const auto host = one.alone(smoke ? 3 : 21);
    std::printf("%4d %9.1f %11.0f %8.1f %8.1f %6.1f", rows, us, rows / us * 1e6,
                prefill_operations(shape, prompts) / us / 1e6, host.whole, host.call);
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
};

void run_tiles(const bench_model& made, gpu::launch_context on, bool smoke, int only_rows) {
  const bench_shape& shape = made.shape();
  std::printf("%4s %-20s  us a layer: attention input, attention output, ffn input, ffn output\n",
              "rows", "kernel");
  for (const int rows : {16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024}) {
    if (smoke && rows > 64) continue;
    if (only_rows > 0 && rows != only_rows) continue;
    bench_step one(made, rows / 16, 16, 32, on);
    for (const tile_name& each : tile_names) {
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

struct chosen_tables {
  bool decode = true, prefill = true, tiles = false, smoke = false;
  int rows = 0;  // of prefill and tiles; 0 = all
};

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
  if (chosen.decode) run_decode(made, on, rate, chosen.smoke);
  if (chosen.prefill) run_prefill(made, on, chosen.smoke, chosen.rows);
  if (chosen.tiles) run_tiles(made, on, chosen.smoke, chosen.rows);
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
      chosen = {false, false, true, chosen.smoke, chosen.rows};
    } else if (word == "--rows" && i + 1 < count) {
      chosen.rows = std::stoi(arguments[++i]);
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
