// SPDX-License-Identifier: Apache-2.0
#pragma once
// The fused operations of one executor: buffers taken at start, weights shared.

#include <memory>
#include <span>
#include <vector>

#include "cpu/kv_pool.hpp"
#include "cpu/linear.hpp"
#include "cpu/row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "cpu/weights.hpp"
#include "model/ops.hpp"

namespace foretoken::cpu {

class tile_cut;

// Sizes of the buffers in floats a row, and the bytes they sum to.
struct workspace_sizes {
  int rows = 0, threads = 0, head_rows = 0;
  int width = 0, qkv = 0, attention = 0, hidden = 0,
      logits = 0;            // hidden: gate and up side by side
  int output = 0;            // W_o a or W_down h, whole tiles
  int columns = 0;           // widest input of a matrix
  int angles = 0;            // rotary pairs of all tables
  std::uint64_t inputs = 0;  // bytes of the matrix inputs
  workspace_sizes(const model::hyperparameters& shape, const options& chosen) noexcept;
  std::uint64_t bytes() const noexcept;
};

// What the tiles of a matrix read: tiles from `precise_from` on take the precise inputs.
struct tile_inputs {
  const activations& usual;
  const activations& precise;
  int precise_from = 0;
  explicit tile_inputs(const activations& all) noexcept : usual(all), precise(all) {}
  tile_inputs(const activations& first, const activations& rest, int rest_from) noexcept
      : usual(first), precise(rest), precise_from(rest_from) {}
  const activations& of(int tile) const noexcept { return tile >= precise_from ? precise : usual; }
};

class step final : public model::ops {
 public:
  step(std::shared_ptr<const weights> from, const options& chosen, kv_pool pool);

  const model::hyperparameters& shape() const noexcept override { return weights_->shape; }
  int rows_max() const noexcept override { return sizes_.rows; }
  int pages() const noexcept override { return pool_.pages(); }
  status begin(const model::micro_batch& batch) override;
  void embed() override;
  void attention_input(int layer) override;
  void attention(int layer) override;
  void attention_output(int layer) override;
  void ffn_input(int layer) override;
  void ffn_output(int layer) override;
  status head(model::step_result& out) override;

  // For tests: sees the raw logits of every row that wanted them, in row order. Costs one branch a
  // row.
  using logits_probe = void (*)(void* context, int row, std::span<const float> logits);
  void probe_logits(logits_probe probe, void* context) noexcept;

 private:
  struct row {
    token id = 0;
    int position = 0;
    int slice = 0;
    int index = 0;  // within the slice
  };
  struct head_task {
    int row = 0;
    token target = -1;    // to be scored, or -1
    int score_index = 0;  // its place among the slice's scores
    bool sample = false;
  };

  struct candidate {  // a tile that may hold a row's best token
    int row = 0, tile = 0;
    token best = -1;
    float value = 0;  // of `best`; a NaN when a value of the tile is not finite
  };
  struct greedy_row {
    float unit = 0;  // bound of a logit's error per unit of |w|
    struct {
      int column = 0;
      float value = 0;
    } apart[2];        // the largest inputs, multiplied exactly
    candidate leader;  // the best tile computed so far
  };

  struct apart_columns {  // of a tile: the row before often has the same ones
    int number[2] = {-1, -1};
    float weights[2][tile_rows];
  };

  std::size_t at(int row_index, int stride) const noexcept;
  const float* angles(int row_index, int rope) const noexcept;  // cosines, then sines
  void fill_angles(int row_index);
  void embed_row(int row_index);
  // Runs work(row, thread) over all rows: by the caller alone when they are few (no barrier).
  template <class Work>
  void each_row(int count, Work&& work);
  const std::byte* read_after(const linear& matrix,
                              const tile_cut& cut,
                              int number,
                              const linear& following,
                              int thread) const noexcept;
  // Runs work(tile, first row, end row, y of that block) over all tiles, `rows` rows of inputs;
  // `following` is the matrix that is read next.
  template <class Work>
  void each_tile(const linear& matrix,
                 const linear& following,
                 const tile_inputs& inputs,
                 int rows,
                 Work&& work);
  void read_while_waiting(const linear& following) noexcept;
  const linear& after_layer(int layer) const noexcept;
  // Inputs of 16 bits: in fast, an object of their own.
  activations& precise_inputs() noexcept { return precise_ ? *precise_ : inputs_; }
  int first_precise_tile() const noexcept;  // of fused QKV
  bool sets_outputs() const noexcept;
  float* norm_row(int row_index,
                  const std::vector<float>& weight,
                  const std::vector<float>& bias,
                  int thread);
  void shape_head(float* head, const std::vector<float>& norm, int layer, int row_index);
  void finish_qkv(int row_index, int layer, int kv_head, int thread);
  void append(
      int row_index, int layer, int kv_head, const float* keys, const float* values, int thread);
  struct block {  // rows of one slice that share attention's loads
    int first = 0, count = 0;
  };
  const page_id* pages_of(const block& rows) const noexcept;
  void list_pages();
  bool list_pages_of(int index, int kv_head, read_list& list) const;
  void ask_for_pages(int layer) noexcept;
  void attend_block(int layer, int index, int kv_head);
  void add_output(const linear& matrix,
                  const linear& following,
                  const activations& inputs,
                  const std::vector<float>& bias,
                  const std::vector<float>& post_norm);
  void gate_tile(int tile, int first, int end, float* y);
  void gate_row(int layer, int row_index);
  void collect_tasks(model::step_result& out);
  bool is_greedy(const head_task& task) const noexcept;
  std::size_t split_greedy();
  bool drafts(std::size_t rows) const noexcept;
  void set_apart(greedy_row& one, float* x) const noexcept;
  void set_greedy_inputs(int i, float* x, bool draft);
  int rows_of_tile(int tile) const noexcept;
  void add_apart(int i, int tile, apart_columns& columns, float* y) const noexcept;
  value_range draft_range(int i, int tile, const float* y) const noexcept;
  value_range bounded_range(int i, int tile, const float* y) const noexcept;
  void find_ranges(int count, bool draft);
  void compute_tile(candidate& one, int thread, const std::byte* next);
  void find_leader(int i, int thread);
  void collect_candidates(int count);
  void run_greedy_block(std::span<const head_task> tasks, model::step_result& out);
  void run_head_block(std::span<const head_task> tasks, model::step_result& out);
  void finish_task(const head_task& task, std::span<float> logits, model::step_result& out) const;

  std::shared_ptr<const weights> weights_;
  workspace_sizes sizes_;
  kv_pool pool_;
  counter* kv_saturated_;
  const row_kernels& kernels_;
  thread_pool threads_;
  activations inputs_;                    // of QKV, W_o, gate and up
  activations hidden_inputs_;             // of W_down: written while gate and up still read theirs
  activations head_inputs_;               // of 16 bits, of the rows of one block of the head
  std::unique_ptr<activations> precise_;  // of a layer's values, only in fast
  std::unique_ptr<activations> rough_;    // the head's of 8 bits, only where greedy rows use them
  const model::micro_batch* batch_ = nullptr;
  std::vector<row> rows_;
  std::vector<head_task> tasks_;
  std::vector<block> blocks_;
  bool lone_blocks_ = false;      // one a slice
  std::vector<read_list> later_;  // one a thread: keys and values of its share of attention
  std::vector<int> rope_offset_;
  std::vector<float> x_, qkv_, attention_, hidden_, output_, logits_, angles_;
  std::vector<float> scratch_, tiles_;  // one part a thread
  std::vector<std::uint16_t> half_;     // one part a thread
  std::vector<candidate> candidates_;
  std::vector<greedy_row> greedy_rows_;   // [head rows]
  std::vector<value_range> tile_ranges_;  // [head rows][tiles]: of a tile's largest logit
  std::vector<float> energies_;           // [head rows][blocks]: of step_greedy.cpp
  logits_probe probe_ = nullptr;
  void* probe_context_ = nullptr;
};

}  // namespace foretoken::cpu
