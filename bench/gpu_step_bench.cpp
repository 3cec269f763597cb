// SPDX-License-Identifier: Apache-2.0
// One decode step on a CUDA device, from the embedding to the sampled token in host memory: random
// weights in a model's shape, every sequence at one context length, one graph a batch size.
//
//   gpu_step_bench [--form f16|w8|w4] [--smoke] [shape ...]     shapes: smollm2 llama1b
//
// Prints microseconds a step (median of the replays), tokens a second, and the share of the floor
// of bytes: weights once, keys and values once, at the read rate measured in the same run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include "base/half.hpp"
#include "gpu/packing.hpp"

namespace foretoken {
namespace {

void must(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(code));
  std::exit(1);
}
void must(const status& done, const char* what) {
  if (done) return;
  std::fprintf(stderr, "%s: %s\n", what, to_string(done.error()).c_str());
  std::exit(1);
}

struct bench_shape {
  const char* name;
  int layers, width, heads, kv_heads, head_dim, ffn, vocabulary;
};
constexpr bench_shape shapes[] = {
    {"smollm2", 30, 576, 9, 3, 64, 1536, 49152},
    {"llama1b", 16, 2048, 32, 8, 64, 8192, 128256},
};

std::size_t at(int n) {
  return static_cast<std::size_t>(n);
}

class memory {
 public:
  ~memory() {
    for (void* one : taken_) cudaFree(one);
  }
  void* take(std::size_t bytes) {
    void* out = nullptr;
    must(cudaMalloc(&out, bytes), "cudaMalloc");
    must(cudaMemset(out, 0, bytes), "cudaMemset");
    taken_.push_back(out);
    total_ += bytes;
    return out;
  }
  template <class T>
  T* take(std::size_t count) {
    return static_cast<T*>(take(count * sizeof(T)));
  }
  std::size_t total() const { return total_; }

 private:
  std::vector<void*> taken_;
  std::size_t total_ = 0;
};

// Random values in the order they come: for timing, any order of rows is as good as another.
class filler {
 public:
  filler() : random_(1) {
    std::normal_distribution<float> normal(0, 0.03f);
    halves_.resize(1u << 22);
    for (auto& v : halves_) v = float_to_f16(normal(random_));
    words_.resize(1u << 21);
    for (auto& v : words_) v = static_cast<std::uint32_t>(random_());
  }
  void halves(void* to, std::size_t bytes) const {
    fill(to, bytes, halves_.data(), halves_.size() * 2);
  }
  void codes(void* to, std::size_t bytes) const {
    fill(to, bytes, words_.data(), words_.size() * 4);
  }
  void scales(std::uint32_t* to, std::size_t count, int levels) const {
    const float step = 0.1f / static_cast<float>(levels);
    const std::uint32_t one = float_to_f16(step) | static_cast<std::uint32_t>(float_to_f16(-0.05f))
                                                       << 16;
    const std::vector<std::uint32_t> all(count, one);
    must(cudaMemcpy(to, all.data(), count * 4, cudaMemcpyHostToDevice), "copy");
  }

 private:
  static void fill(void* to, std::size_t bytes, const void* from, std::size_t size) {
    auto* const start = static_cast<char*>(to);
    must(cudaMemcpy(start, from, std::min(size, bytes), cudaMemcpyHostToDevice), "copy");
    for (std::size_t done = size; done < bytes; done *= 2) {
      must(cudaMemcpy(start + done, start, std::min(done, bytes - done), cudaMemcpyDeviceToDevice),
           "copy");
    }
  }
  std::mt19937 random_;
  std::vector<std::uint16_t> halves_;
  std::vector<std::uint32_t> words_;
};

struct bench_layer {
  gpu::packed_matrix qkv, o, gate_up, down;
  gpu::norm_parameters attention_norm, ffn_norm;
};

class bench_model {
 public:
  bench_model(const bench_shape& shape, gpu::weight_form form) : shape_(shape), form_(form) {
    for (int i = 0; i < shape.layers; ++i) {
      bench_layer layer;
      layer.qkv = matrix((shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.width);
      layer.o = matrix(shape.width, shape.heads * shape.head_dim);
      layer.gate_up = matrix(2 * shape.ffn, shape.width);
      layer.down = matrix(shape.width, shape.ffn);
      layer.attention_norm = norm();
      layer.ffn_norm = norm();
      layers.push_back(layer);
    }
    final_norm = norm();
    head = matrix(shape.vocabulary, shape.width);
    std::vector<float> table;
    for (int p = 0; p < context_max; ++p) {
      for (int i = 0; i < shape.head_dim; ++i)
        table.push_back(i < shape.head_dim / 2 ? 0.8f : 0.6f);
    }
    angles = memory_.take<float>(table.size());
    must(cudaMemcpy(angles, table.data(), table.size() * 4, cudaMemcpyHostToDevice), "copy");
  }
  static constexpr int context_max = 2064;
  std::size_t weight_bytes() const { return weight_bytes_; }
  const bench_shape& shape() const { return shape_; }

  std::vector<bench_layer> layers;
  gpu::norm_parameters final_norm;
  gpu::packed_matrix head;
  float* angles = nullptr;

 private:
  gpu::packed_matrix matrix(int rows, int columns) {
    const std::size_t codes = gpu::packed_code_bytes(form_, rows, columns);
    const std::size_t scales = gpu::packed_scale_bytes(form_, rows, columns);
    void* const code_memory = memory_.take(codes);
    auto* scale_memory = static_cast<std::uint32_t*>(memory_.take(scales + 4));
    if (form_ == gpu::weight_form::f16) {
      filler_.halves(code_memory, codes);
    } else {
      filler_.codes(code_memory, codes);
      filler_.scales(scale_memory, scales / 4, form_ == gpu::weight_form::w8 ? 256 : 16);
    }
    weight_bytes_ += codes + scales;
    return {code_memory, scale_memory, nullptr, nullptr, rows, columns, form_};
  }
  gpu::norm_parameters norm() {
    const std::vector<float> ones(at(shape_.width), 1.0f);
    auto* const weight = memory_.take<float>(ones.size());
    must(cudaMemcpy(weight, ones.data(), ones.size() * 4, cudaMemcpyHostToDevice), "copy");
    return {weight, nullptr, 1e-5f, model::norm_kind::rms};
  }
  bench_shape shape_;
  gpu::weight_form form_;
  memory memory_;
  filler filler_;
  std::size_t weight_bytes_ = 0;
};

// Everything of one batch size and context.
class bench_step {
 public:
  bench_step(const bench_model& from, int rows, int context, gpu::launch_context on)
      : model_(from), rows_(rows), context_(context), on_(on) {
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
    pool_ = {nullptr, rows * pages_each, shape.kv_heads, shape.head_dim};
    pool_.base = memory_.take<std::uint16_t>(at(shape.layers) * pool_.layer_values());
    static const filler values;
    values.halves(pool_.base, at(shape.layers) * pool_.layer_values() * 2);
    std::vector<std::int32_t> tokens, positions, tables, pages;
    std::vector<gpu::attention_tile> tiles;
    for (int r = 0; r < rows; ++r) {
      tokens.push_back((r * 7919 + 1) % shape.vocabulary);
      positions.push_back(context - 1);
      tables.push_back(r);
      tiles.push_back({r, 1});
      which_.push_back(r);
      for (int p = 0; p < pages_each; ++p) pages.push_back(p * rows + r);
    }
    token_ = put(tokens);
    step_rows_ = {token_, put(positions), put(tables), put(pages), pages_each, rows};
    tiles_ = put(tiles);
    which_there_ = put(which_);
    logits_ = memory_.take<float>(at(rows) * at(shape.vocabulary));
    scratch_ = memory_.take(gpu::digest_scratch_bytes(rows, shape.vocabulary));
    must(cudaHostAlloc(reinterpret_cast<void**>(&digests_), at(rows) * sizeof(gpu::logits_digest),
                       cudaHostAllocMapped),
         "pinned");
  }
  ~bench_step() { cudaFreeHost(digests_); }

  double kv_bytes() const {
    const bench_shape& shape = model_.shape();
    return 2.0 * 2.0 * shape.layers * shape.kv_heads * shape.head_dim * context_ * rows_;
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
    head.rows = rows_;
    head.which = which_there_;
    head.work = work_;
    head.norm = model_.final_norm;
    head.matrix = model_.head;
    head.logits = logits_;
    must(gpu::launch_head(on, head), "head");
    gpu::digest_arguments digest{rows_, logits_,  shape.vocabulary, shape.vocabulary,
                                 1,     scratch_, digests_,         nullptr};
    must(gpu::launch_digest(on, digest), "digest");
  }

  // Median microseconds of a replay.
  double time(unsigned parts, int replays) {
    queue(parts);
    must(cudaStreamSynchronize(on_.stream), "step");
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    must(cudaStreamBeginCapture(on_.stream, cudaStreamCaptureModeThreadLocal), "capture");
    queue(parts);
    must(cudaStreamEndCapture(on_.stream, &graph), "capture");
    must(cudaGraphInstantiate(&ready, graph, 0), "graph");
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
    cudaGraphDestroy(graph);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  template <class T>
  T* put(const std::vector<T>& values) {
    auto* const out = memory_.take<T>(values.size());
    must(cudaMemcpy(out, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
    return out;
  }
  const bench_model& model_;
  int rows_, context_;
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

void run_shape(const bench_shape& shape,
               gpu::weight_form form,
               gpu::launch_context on,
               double rate,
               bool smoke) {
  const bench_model made(shape, form);
  std::printf(
      "%s, weights %.1f MB; us a step; parts alone, us a layer: attention,\nattention input, "
      "attention output, ffn input, ffn output; us a step: head and digest\n",
      shape.name, static_cast<double>(made.weight_bytes()) / 1e6);
  std::printf("%4s %7s %9s %11s %7s  %s\n", "B", "context", "us", "tokens/s", "floor", "parts");
  for (const int context : {128, 512, 2048}) {
    for (const int rows : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
      if (smoke && (rows > 8 || context > 128)) continue;
      bench_step one(made, rows, context, on);
      const double us = one.time(bench_step::all_parts, smoke ? 3 : 15);
      const double floor = (static_cast<double>(made.weight_bytes()) + one.kv_bytes()) / rate * 1e6;
      std::printf("%4d %7d %9.1f %11.0f %6.1f%%", rows, context, us, rows / us * 1e6,
                  100 * floor / us);
      if (context == 512) {
        for (int part = 0; part < bench_step::part_count; ++part) {
          const double alone = one.time(1u << part, 5);
          std::printf("  %6.2f", part < 5 ? alone / shape.layers : alone);
        }
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
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
  bool smoke = false;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    if (word == "--smoke") {
      smoke = true;
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
    if (wanted) run_shape(shape, form, on, rate, smoke);
  }
  return 0;
}
