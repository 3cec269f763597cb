// SPDX-License-Identifier: Apache-2.0
// The output layer: logits of the rows that want them, a bounded number at a time, then the choice.
#include "cpu/step.hpp"
#include "cpu/step_inline.hpp"
#include "model/sampling.hpp"

namespace foretoken::cpu {

void step::collect_tasks(model::step_result& out) {
  tasks_.clear();
  out.slices.assign(batch_->slices.size(), {});
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    const row& one = rows_[r];
    const model::slice& owner = batch_->slices[static_cast<std::size_t>(one.slice)];
    model::slice_result& to = out.slices[static_cast<std::size_t>(one.slice)];
    to.sequence = owner.sequence;
    const auto next = static_cast<std::size_t>(one.index) + 1;
    const bool last = next == owner.tokens.size();
    head_task task{static_cast<int>(r), -1, 0, last && owner.sample_last};
    if (owner.score_all) task.target = last ? owner.score_next : owner.tokens[next];
    if (task.target >= 0) {
      task.score_index = static_cast<int>(to.scores.size());
      to.scores.emplace_back();
    }
    if (task.target >= 0 || task.sample) tasks_.push_back(task);
  }
}

void step::finish_task(const head_task& task,
                       std::span<float> logits,
                       model::step_result& out) const {
  const auto slice_index =
      static_cast<std::size_t>(rows_[static_cast<std::size_t>(task.row)].slice);
  const model::slice& owner = batch_->slices[slice_index];
  model::slice_result& to = out.slices[slice_index];
  if (shape().final_softcap > 0) {
    kernels_.softcap(logits.data(), static_cast<int>(logits.size()), shape().final_softcap);
  }
  if (task.target >= 0) {
    const int logprobs = owner.sampling ? owner.sampling->logprobs : 0;
    to.scores[static_cast<std::size_t>(task.score_index)] =
        model::score(logits, task.target, std::max(0, logprobs));
  }
  if (task.sample) {
    to.next = model::sample(logits, *owner.sampling, model::prompt_of(owner), owner.generated,
                            owner.generated_count);
  }
}

void step::run_head_block(std::span<const head_task> tasks, model::step_result& out) {
  const int count = static_cast<int>(tasks.size());
  each_row(count, [&](int i, int thread) {
    const int row_index = tasks[static_cast<std::size_t>(i)].row;
    head_inputs_.set(i,
                     norm_row(row_index, weights_->final_norm, weights_->final_norm_bias, thread),
                     sizes_.width);
  });
  each_tile(*weights_->head, *weights_->layers.front().qkv, tile_inputs(head_inputs_), count,
            [&](int tile, int first, int end, const float* y) {
              for (int r = first; r < end; ++r, y += tile_rows) {
                std::copy_n(y, tile_rows, logits_.data() + at(r, sizes_.logits) + tile * tile_rows);
              }
            });
  const auto vocabulary = static_cast<std::size_t>(shape().vocabulary);
  threads_.run(count, [&](int i, int) {
    const std::span<float> logits(logits_.data() + at(i, sizes_.logits), vocabulary);
    finish_task(tasks[static_cast<std::size_t>(i)], logits, out);
  });
  if (probe_ == nullptr) return;
  for (int i = 0; i < count; ++i) {
    probe_(probe_context_, tasks[static_cast<std::size_t>(i)].row,
           std::span<const float>(logits_.data() + at(i, sizes_.logits), vocabulary));
  }
}

status step::head(model::step_result& out) {
  collect_tasks(out);
  const std::size_t greedy = split_greedy();
  const auto block_rows = static_cast<std::size_t>(sizes_.head_rows);
  const std::span<const head_task> all(tasks_);
  for (std::size_t first = 0; first < greedy; first += block_rows) {
    run_greedy_block(all.subspan(first, std::min(block_rows, greedy - first)), out);
  }
  for (std::size_t first = greedy; first < all.size(); first += block_rows) {
    run_head_block(all.subspan(first, std::min(block_rows, all.size() - first)), out);
  }
  batch_ = nullptr;
  return {};
}

}  // namespace foretoken::cpu
