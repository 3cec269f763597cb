// SPDX-License-Identifier: Apache-2.0
#pragma once
// One step of the general path over random weights, recorded as a graph, for gpu_step_bench.

#include <algorithm>
#include <chrono>
#include <vector>

#include "bench/gpu_step_model.hpp"
#include "gpu/attention_tiles.hpp"
#include "gpu/kernels.hpp"

namespace foretoken {

// Everything of one batch size and context.
class bench_step {
 public:
  // `sequences` of `tokens` rows each, the last at position context - 1.
  bench_step(
      const bench_model& from, int sequences, int tokens, int context, gpu::launch_context on)
      : model_(from), rows_(sequences * tokens), tokens_(tokens), context_(context), on_(on) {
    const int rows = rows_;
    const bench_shape& shape = from.shape();
    hyper_.width = shape.width;
    hyper_.heads = shape.heads;
    hyper_.kv_heads = shape.kv_heads;
    hyper_.head_dim = shape.head_dim;
    hyper_.ffn = shape.ffn;
    const auto bytes =
        gpu::workspace_bytes(hyper_, rows, rows * gpu::attention_spans(bench_model::context_max));
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
    std::vector<std::int32_t> words, tables, pages;
    for (int r = 0; r < rows; ++r) {
      const int i = r % tokens;
      words.push_back((r * 7919 + 1) % shape.vocabulary);
      positions_.push_back(context - tokens + i);
      tables.push_back(r / tokens);
      if (i + 1 < tokens) continue;
      which_.push_back(r);
      for (int p = 0; p < pages_each; ++p) pages.push_back(p * sequences + r / tokens);
    }
    token_ = put(words);
    step_rows_ = {token_, put(positions_), put(tables), put(pages), pages_each, rows};
    attention_columns(usual_columns());
    which_there_ = put(which_);
    logits_ = memory_.take<float>(which_.size() * at(shape.vocabulary));
    scratch_ = memory_.take(gpu::digest_scratch_bytes(sequences, shape.vocabulary));
    must(cudaHostAlloc(reinterpret_cast<void**>(&digests_),
                       which_.size() * sizeof(gpu::logits_digest), cudaHostAllocMapped),
         "pinned");
  }
  ~bench_step() {
    if (ready_ != nullptr) cudaGraphExecDestroy(ready_);
    cudaFreeHost(digests_);
    cudaFreeHost(requests_);
    cudaFreeHost(drawn_);
  }

  double kv_bytes() const {
    const bench_shape& shape = model_.shape();
    return 2.0 * 2.0 * shape.layers * shape.kv_heads * shape.head_dim * context_ *
           static_cast<double>(which_.size());
  }

  // parts, as bits: attention, attention input, attention output, ffn input, ffn output, head and
  // digest
  static constexpr int part_count = 6;
  static constexpr unsigned all_parts = (1u << part_count) - 1;
  static constexpr unsigned attention_part = 1;
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
      gpu::attention_arguments attend = attention_arguments();
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
    if (requests_ != nullptr) {
      const gpu::draw_arguments draw{head.rows,        logits_,   shape.vocabulary,
                                     shape.vocabulary, requests_, drawn_};
      return must(gpu::launch_draw(on, draw), "draw");
    }
    gpu::digest_arguments digest{head.rows, logits_,  shape.vocabulary, shape.vocabulary,
                                 top_,      scratch_, digests_,         nullptr};
    must(gpu::launch_digest(on, digest), "digest");
  }

  void wants(int top) { top_ = top; }  // entries of a digest
  // Tokens are drawn instead, each row with a random number of its own.
  void draws(gpu::draw_parameters how) {
    if (requests_ == nullptr) {
      const auto take = [&]<class T>(T*& to) {
        must(cudaHostAlloc(reinterpret_cast<void**>(&to), which_.size() * sizeof(T),
                           cudaHostAllocMapped),
             "pinned");
      };
      take(requests_);
      take(drawn_);
    }
    for (std::size_t r = 0; r < which_.size(); ++r) {
      how.uniform = (static_cast<double>(r) + 0.5) / static_cast<double>(which_.size());
      requests_[r].how = how;
    }
  }
  // Of the last step's rows.
  int left_to_host() const {
    return static_cast<int>(std::count_if(drawn_, drawn_ + which_.size(), [](const auto& each) {
      return each.id == gpu::drawn_by_host;
    }));
  }
  void kernels(gpu::product_tile tile) { on_.tile = tile; }
  // Those that a step of these rows has.
  int usual_columns() const {
    const std::vector<gpu::row_run> runs(at(rows_ / tokens_), {context_ - tokens_, tokens_});
    return gpu::choose_columns(on_, attention_arguments(), runs);
  }
  bool has_columns(int columns) const {
    return columns == gpu::query_columns ||
           gpu::has_large_tiles(on_, attention_arguments(), columns);
  }
  // Attention by tiles of so many columns.
  void attention_columns(int columns) {
    const bench_shape& shape = model_.shape();
    const int tile_rows = gpu::attention_tile_rows(shape.heads, shape.kv_heads, columns);
    std::vector<gpu::attention_tile> tiles;
    for (int r = 0; r < rows_; r += tokens_) {
      for (int i = 0; i < tokens_; i += tile_rows) {
        tiles.push_back({r + i, std::min(tile_rows, tokens_ - i)});
      }
    }
    if (columns == gpu::query_columns) {
      tiles.resize(at(rows_));  // as a step pads them
    } else {
      gpu::order_tiles(tiles, positions_.data());
    }
    tiles_ = put(tiles);
    tile_count_ = static_cast<int>(tiles.size());
    columns_ = columns;
  }
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

  // Records the step; replays of steps on streams of their own run beside each other.
  void prepare() { ready_ = record(all_parts); }
  void replay() { must(cudaGraphLaunch(ready_, on_.stream), "replay"); }

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
  gpu::attention_arguments attention_arguments() const {
    const bench_shape& shape = model_.shape();
    gpu::attention_arguments out;
    out.rows = step_rows_;
    out.work = work_;
    out.tiles = tiles_;
    out.tile_count = tile_count_;
    out.columns = columns_;
    out.spans_max = gpu::attention_spans(context_);
    out.positions_max = context_;
    out.heads = shape.heads;
    out.kv_heads = shape.kv_heads;
    out.head_dim = shape.head_dim;
    return out;
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
  cudaGraphExec_t ready_ = nullptr;
  int rows_, tokens_, context_;
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
  int tile_count_ = 0, columns_ = gpu::query_columns;
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> which_;
  float* logits_ = nullptr;
  void* scratch_ = nullptr;
  gpu::logits_digest* digests_ = nullptr;
  gpu::draw_request* requests_ = nullptr;
  gpu::drawn_token* drawn_ = nullptr;
};

}  // namespace foretoken
