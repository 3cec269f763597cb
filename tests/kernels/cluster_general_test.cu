// SPDX-License-Identifier: Apache-2.0
// The cluster-resident step against the general path's kernels, bit for bit: the same rows, the
// same weights, the same pool of keys and values; logits and what is appended must be equal.
#include <algorithm>
#include <string>

#include "gpu/kernels.hpp"
#include "tests/kernels/cluster_model.cuh"

namespace foretoken::cluster_test {
namespace {

class general_step {
 public:
  general_step(const random_model& model, const uploaded_model& uploaded, const kv_pool& pool)
      : model_(model), uploaded_(uploaded), pool_(pool) {
    const dimensions& d = model.size;
    for (const random_layer& l : model.layer) {
      qkv_.push_back(std::make_unique<general_matrix>(
          std::vector<const random_matrix*>{&l.q, &l.k, &l.v},
          gpu::qkv_order(d.heads, d.kv_heads, head_dim, head_dim / 2, model.neighbours)));
      o_.push_back(std::make_unique<general_matrix>(std::vector<const random_matrix*>{&l.o},
                                                    gpu::plain_order(d.width)));
      gate_.push_back(std::make_unique<general_matrix>(
          std::vector<const random_matrix*>{&l.gate, &l.up}, gpu::gate_up_order(d.ffn)));
      down_.push_back(std::make_unique<general_matrix>(std::vector<const random_matrix*>{&l.down},
                                                       gpu::plain_order(d.width)));
    }
    head_ = std::make_unique<general_matrix>(std::vector<const random_matrix*>{model.head.get()},
                                             gpu::plain_order(d.vocabulary));
    embedding_ = std::make_unique<general_matrix>(
        std::vector<const random_matrix*>{model.embedding.get()}, gpu::plain_order(d.vocabulary));
    model::hyperparameters shape;
    shape.width = d.width;
    shape.heads = d.heads;
    shape.kv_heads = d.kv_heads;
    shape.head_dim = head_dim;
    shape.ffn = d.ffn;
    shape.vocabulary = d.vocabulary;
    const gpu::workspace_sizes size =
        gpu::workspace_bytes(shape, 64, 64 * gpu::attention_spans(2048));
    work_.x = zeroed<float>(size.x);
    work_.normed = zeroed<std::uint16_t>(size.normed);
    work_.squares = zeroed<float>(size.squares);
    work_.q = zeroed<std::uint16_t>(size.q);
    work_.attended = zeroed<std::uint16_t>(size.attended);
    work_.hidden = zeroed<std::uint16_t>(size.hidden);
    work_.raw = zeroed<float>(size.raw);
    work_.partial = zeroed<float>(size.partial);
    work_.arrived = zeroed<std::uint32_t>(size.arrived);
  }

  // Logits of the rows, [rows][head rows].
  std::vector<float> run(const std::vector<std::int32_t>& tokens,
                         const std::vector<std::int32_t>& positions,
                         int longest) {
    const dimensions& d = model_.size;
    const int rows = int(tokens.size());
    std::vector<std::int32_t> tables;
    std::vector<gpu::attention_tile> tiles;
    for (int r = 0; r < rows; ++r) {
      tables.push_back(r);
      tiles.push_back({r, 1});
    }
    const on_device<std::int32_t> token(tokens), position(positions), table(tables);
    const on_device<gpu::attention_tile> tile(tiles);
    gpu::launch_context on;
    on.dependent = false;
    const gpu::step_rows step{token.at,        position.at,      table.at,
                              pool_.tables.at, pool_.pages_each, rows};
    gpu::embed_arguments embed;
    embed.rows = step;
    embed.table = embedding_->view;
    embed.work = work_;
    embed.next_norm = norm(0);
    check(gpu::launch_embed(on, embed));
    for (int i = 0; i < d.layers; ++i) layer(on, step, tile.at, i, longest);
    return head(rows);
  }
  // The head alone, of what stands in the workspace.
  std::vector<float> head(int rows) {
    std::vector<std::int32_t> all;
    for (int r = 0; r < rows; ++r) all.push_back(r);
    const on_device<std::int32_t> which(all);
    const on_device<float> logits(std::size_t(rows) * head_->view.rows);
    gpu::launch_context on;
    on.dependent = false;
    gpu::head_arguments given;
    given.rows = given.rows_of_x = rows;
    given.which = which.at;
    given.work = work_;
    given.norm = norm(2 * model_.size.layers);
    given.matrix = head_->view;
    given.logits = logits.at;
    check(gpu::launch_head(on, given));
    check(cudaDeviceSynchronize(), "general head");
    return logits.read();
  }
  const gpu::workspace& work() const { return work_; }
  int head_rows() const { return head_->view.rows; }

 private:
  gpu::norm_parameters norm(int which) const {
    gpu::norm_parameters out;
    out.weight = uploaded_.gains.at + std::size_t(which) * model_.size.width;
    out.epsilon = 1e-5f;
    return out;
  }
  void layer(const gpu::launch_context& on,
             const gpu::step_rows& step,
             const gpu::attention_tile* tiles,
             int i,
             int longest) {
    const dimensions& d = model_.size;
    std::uint16_t* const kv = pool_.values.at + std::size_t(i) * pool_.layer_values;
    gpu::attention_input_arguments in;
    in.rows = step;
    in.work = work_;
    in.norm = norm(2 * i);
    in.qkv = qkv_[i]->view;
    in.heads = d.heads;
    in.kv_heads = d.kv_heads;
    in.head_dim = head_dim;
    in.angles = uploaded_.angles.at;
    in.pairs = head_dim / 2;
    in.rope_neighbours = model_.neighbours;
    in.query_scale = 0.125f;
    in.kv = kv;
    check(gpu::launch_attention_input(on, in));
    gpu::attention_arguments attention;
    attention.rows = step;
    attention.work = work_;
    attention.tiles = tiles;
    attention.tile_count = step.rows;
    attention.spans_max = gpu::attention_spans(longest + 1);
    attention.heads = d.heads;
    attention.kv_heads = d.kv_heads;
    attention.head_dim = head_dim;
    attention.kv = kv;
    check(gpu::launch_attention(on, attention));
    gpu::residual_arguments out;
    out.rows = step.rows;
    out.work = work_;
    out.matrix = o_[i]->view;
    out.width = d.width;
    out.next_norm = norm(2 * i + 1);
    check(gpu::launch_attention_output(on, out));
    gpu::ffn_input_arguments ffn;
    ffn.rows = step.rows;
    ffn.work = work_;
    ffn.norm = norm(2 * i + 1);
    ffn.matrix = gate_[i]->view;
    ffn.ffn = d.ffn;
    check(gpu::launch_ffn_input(on, ffn));
    out.matrix = down_[i]->view;
    out.next_norm = norm(2 * i + 2);
    check(gpu::launch_ffn_output(on, out));
  }

  const random_model& model_;
  const uploaded_model& uploaded_;
  const kv_pool& pool_;
  std::vector<std::unique_ptr<general_matrix>> qkv_, o_, gate_, down_;
  std::unique_ptr<general_matrix> head_, embedding_;
  gpu::workspace work_;
};

// Rows of `a` and `b`, whose logits are `stride` apart, of which `vocabulary` count.
int count_differences(const char* what,
                      const std::vector<float>& a,
                      int stride_a,
                      const std::vector<float>& b,
                      int stride_b,
                      const std::vector<std::int32_t>& positions) {
  int failures = 0;
  const int vocabulary = std::min(stride_a, stride_b);
  for (std::size_t r = 0; r < positions.size(); ++r) {
    std::size_t different = 0;
    double most = 0;
    for (int i = 0; i < vocabulary; ++i) {
      const float one = a[r * stride_a + i], other = b[r * stride_b + i];
      different += std::memcmp(&one, &other, 4) != 0;
      most = std::max(most, double(std::fabs(one - other)));
    }
    if (different != 0) ++failures;
    std::printf("%s %s, position %d: %zu of %d logits differ, most %g\n",
                different == 0 ? "ok  " : "FAIL", what, positions[r], different, vocabulary, most);
  }
  return failures;
}

// The most that so many rows of one lane of SmolLM2's shape may have: pairs 0 and 16, of row 5, are
// merged by the same block.
std::vector<std::int32_t> longest(int rows) {
  const int spans = limits_of(model_shape::smollm2_135m, rows).spans_max, half = spans / 2;
  std::vector<std::int32_t> out(std::size_t(rows), half * gpu::attention_span - 1);
  out[0] = (spans - half) * gpu::attention_span - 1;
  return out;
}

// Positions of the rows of one lane. Of the second line some blocks have two turns of attention,
// and none so many chunks that their values need the output projection's slots.
std::vector<std::vector<std::int32_t>> cases(model_shape shape) {
  std::vector<std::vector<std::int32_t>> out{{0, 15, 16, 255, 256, 511, 777, 63},
                                             {346, 784, 32, 630, 17, 340, 1259, 1087},
                                             {1800, 0, 2047, 15, 1800, 2047, 256, 1023},
                                             std::vector<std::int32_t>(8, 2047),
                                             {511, 0, 255, 256, 16, 511, 512, 767, 64},
                                             std::vector<std::int32_t>(9, 1023),
                                             {0, 511, 16, 255, 256, 511, 767, 64, 512, 1000}};
  if (shape == model_shape::tiny) return out;
  for (const int rows : {lane_rows_few, lane_rows_most}) out.push_back(longest(rows));
  return out;
}
int context_of(const std::vector<std::vector<std::int32_t>>& all) {
  int most = 0;
  for (const auto& each : all) most = std::max(most, *std::max_element(each.begin(), each.end()));
  return most + 1;
}

// A model and everything that both paths need of it.
struct both_paths {
  const random_model model;
  const uploaded_model uploaded;
  const kv_pool pool;
  general_step general;
  both_paths(model_shape shape, bool neighbours)
      : model(shape, neighbours, 77),
        uploaded(model),
        pool(model.size, lane_rows_most, context_of(cases(shape))),
        general(model, uploaded, pool) {}
};

// The rows in one lane.
int compare_rows(both_paths& here, const std::vector<std::int32_t>& positions) {
  const random_model& model = here.model;
  const kv_pool& pool = here.pool;
  general_step& general = here.general;
  const model_shape shape = model.size.shape;
  const int count = int(positions.size());
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 7919 + 13) % model.size.vocabulary);

  const on_device<float> logits(std::size_t(count) * model.size.vocabulary);
  pool.fill();
  step_arguments step;
  step.model = here.uploaded.view();
  step.kv = pool.values.at;
  step.pages = pool.pages;
  step.page_tables = pool.tables.at;
  step.table_stride = pool.pages_each;
  step.lanes = 1;
  step.lane[0].rows = count;
  step.lane[0].logits = logits.at;
  for (int r = 0; r < count; ++r) {
    step.lane[0].token[r] = tokens[r];
    step.lane[0].position[r] = positions[r];
    step.lane[0].table[r] = r;
  }
  check(launch(shape, step, nullptr));
  check(cudaDeviceSynchronize(), "cluster step");
  const std::vector<float> of_cluster = logits.read();
  const std::vector<std::uint16_t> pool_of_cluster = pool.values.read();

  pool.fill();
  const std::vector<float> of_general =
      general.run(tokens, positions, *std::max_element(positions.begin(), positions.end()));
  const std::vector<std::uint16_t> pool_of_general = pool.values.read();
  std::size_t different_lines = 0;
  for (std::size_t i = 0; i < pool_of_general.size(); ++i) {
    different_lines += pool_of_general[i] != pool_of_cluster[i];
  }
  int failures = count_differences("own head", of_cluster, model.size.vocabulary, of_general,
                                   general.head_rows(), positions);
  // The same step up to the head, and the general path's head on what it left.
  pool.fill();
  step.normed = general.work().normed;
  step.normed_stride = gpu::padded_columns(model.size.width);
  step.squares = general.work().squares;
  const std::size_t rows = positions.size(), width = std::size_t(model.size.width);
  check(cudaMemset(step.normed, 0xFF, rows * std::size_t(step.normed_stride) * 2), "poison");
  check(cudaMemset(step.squares, 0xFF, rows * width / 16 * 4), "poison");
  check(launch(shape, step, nullptr));
  check(cudaDeviceSynchronize(), "layers alone");
  failures += count_differences("general head", general.head(count), general.head_rows(),
                                of_general, general.head_rows(), positions);
  std::printf("%s keys and values: %zu differ\n", different_lines == 0 ? "ok  " : "FAIL",
              different_lines);
  return failures + (different_lines != 0);
}

// `positions`: of as many spans as a lane takes.
int refuse(const both_paths& here, std::vector<std::int32_t> positions) {
  const limits most = limits_of(here.model.size.shape, int(positions.size()));
  bool good = lane_fits(most, positions);
  ++positions[0];
  step_arguments step;
  step.model = here.uploaded.view();
  step.lanes = 1;
  step.lane[0].rows = int(positions.size());
  std::copy(positions.begin(), positions.end(), step.lane[0].position);
  const status launched = launch(here.model.size.shape, step, nullptr);
  good = good && !launched && launched.error().code == errc::unsupported;
  std::printf("%s a span more than a lane takes is refused\n", good ? "ok  " : "FAIL");
  return good ? 0 : 1;
}

int compare(model_shape shape, bool neighbours) {
  check(prepare(shape));
  both_paths here(shape, neighbours);
  int failures = 0;
  if (shape == model_shape::smollm2_135m) {
    for (const int rows : {lane_rows_few, lane_rows_most}) failures += refuse(here, longest(rows));
  }
  for (const auto& positions : cases(shape)) failures += compare_rows(here, positions);
  return failures;
}

}  // namespace
}  // namespace foretoken::cluster_test

int main() {
  using namespace foretoken::cluster_test;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess || properties.major != 9) return 77;
  int failures = compare(model_shape::tiny, false);
  failures += compare(model_shape::tiny, true);
  failures += compare(model_shape::smollm2_135m, true);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
