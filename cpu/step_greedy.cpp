// SPDX-License-Identifier: Apache-2.0
// The best token of greedy rows in `fast`, without their logits: a pass with 8-bit inputs finds
// every tile's largest logit, and the tiles that may hold the best one are computed with the 16
// bits of the full pass. N x K byte products a row instead of 2 N K, and a few tiles.
//
// With inputs x16 (the full pass) and x8 of the same row, a logit of the first pass is off by
// w (x16 - x8). Rounding errors of columns are independent, so this has a standard deviation of
// |w| |x16 - x8| / sqrt(K), both factors known; a tile is out when its largest logit plus eight of
// these is below another's minus eight. (The bound that holds always, |w| |x16 - x8|, is sqrt(K)
// times as wide and leaves most tiles in where the distribution is flat: it was tried, and cost
// more than the full pass. exact therefore takes the full pass.) Which tiles are computed depends
// on the row alone, so the token does too.

#include <cmath>
#include <limits>

#include "cpu/step.hpp"
#include "cpu/step_inline.hpp"

namespace foretoken::cpu {
namespace {

// One logit in 10^15 is further off.
constexpr double deviations = 8;

// Rounding of the float sums in both passes, relative to |w| |x|: 4 operations a group of 16 or
// more columns; 16 for types whose scaled quants are larger than their weights.
double rounding(int columns) noexcept {
  return 16.0 * (columns / 4.0 + 16.0) * 0x1p-24;
}

}  // namespace

bool step::is_greedy(const head_task& task) const noexcept {
  if (!task.sample || task.target >= 0) return false;
  const model::slice& owner =
      batch_->slices[static_cast<std::size_t>(rows_[static_cast<std::size_t>(task.row)].slice)];
  const model::sampling_parameters& p = *owner.sampling;
  return !(p.temperature > 0) && p.logprobs < 0 && p.repetition_penalty == 1 &&
         p.presence_penalty == 0 && p.frequency_penalty == 0 && p.logit_bias.empty();
}

// The first `count` of tasks_ that the bounded pass takes; they are moved to the front.
std::size_t step::split_greedy() {
  const bool possible = weights_->precision == numerics::fast && !weights_->head_norms.empty() &&
                        probe_ == nullptr && shape().final_softcap == 0;
  if (!possible) return 0;
  const auto others = std::stable_partition(
      tasks_.begin(), tasks_.end(), [this](const head_task& task) { return is_greedy(task); });
  return static_cast<std::size_t>(others - tasks_.begin());
}

// Inputs of both passes; the bound of each row per unit of |w|.
void step::set_bounded_inputs(std::span<const head_task> tasks) {
  each_row(static_cast<int>(tasks.size()), [&](int i, int thread) {
    const float* x = norm_row(tasks[static_cast<std::size_t>(i)].row, weights_->final_norm,
                              weights_->final_norm_bias, thread);
    precise_inputs().set(i, x, sizes_.width);
    inputs_.set(i, x, sizes_.width);
    double squares = 0;
    for (int k = 0; k < sizes_.width; ++k) squares += static_cast<double>(x[k]) * x[k];
    const double deviation = inputs_.distance(i, x, sizes_.width) / std::sqrt(sizes_.width);
    row_bounds_[static_cast<std::size_t>(i)] =
        static_cast<float>(deviations * deviation + rounding(sizes_.width) * std::sqrt(squares));
  });
}

// A tile's largest value; NaN when one is not finite.
float step::largest_of(int tile, const float* y) const noexcept {
  const int count = std::min(tile_rows, shape().vocabulary - tile * tile_rows);
  float largest = -std::numeric_limits<float>::infinity();
  float poison = 0;  // stays 0 while all are finite
  for (int i = 0; i < count; ++i) {
    largest = largest < y[i] ? y[i] : largest;
    poison += y[i] * 0.0f;
  }
  return largest + poison;
}

// Fills candidates_ with the tiles that may hold a row's best token; rows with values that are not
// finite keep all of theirs.
void step::collect_candidates(int count) {
  const auto tiles = static_cast<std::size_t>(weights_->head->tiles());
  candidates_.clear();
  for (int i = 0; i < count; ++i) {
    const float* tops = tile_tops_.data() + static_cast<std::size_t>(i) * tiles;
    const float unit = row_bounds_[static_cast<std::size_t>(i)];
    float floor = -std::numeric_limits<float>::infinity();
    for (std::size_t t = 0; t < tiles; ++t) {
      floor = std::max(floor, tops[t] - unit * weights_->head_norms[t]);
    }
    for (std::size_t t = 0; t < tiles; ++t) {
      if (!(tops[t] + unit * weights_->head_norms[t] < floor)) {
        candidates_.push_back({i, static_cast<int>(t), -1, 0});
      }
    }
  }
}

void step::run_bounded_block(std::span<const head_task> tasks, model::step_result& out) {
  const int count = static_cast<int>(tasks.size());
  const linear& head = *weights_->head;
  set_bounded_inputs(tasks);
  each_tile(head, *weights_->layers.front().qkv, tile_inputs(inputs_), count,
            [&](int tile, int first, int end, const float* y) {
              for (int r = first; r < end; ++r, y += tile_rows) {
                tile_tops_[at(r, head.tiles()) + static_cast<std::size_t>(tile)] =
                    largest_of(tile, y);
              }
            });
  collect_candidates(count);
  threads_.run(static_cast<int>(candidates_.size()), [&](int ticket, int thread) {
    candidate& one = candidates_[static_cast<std::size_t>(ticket)];
    float* const all = tiles_.data() + at(thread, sizes_.rows * tile_rows);
    head.apply(one.tile, precise_inputs(), one.row, one.row + 1, all, tile_rows);
    const float* const y = all + at(one.row, tile_rows);
    one.value = largest_of(one.tile, y);
    if (std::isnan(one.value)) return;
    one.best = one.tile * tile_rows + static_cast<int>(std::find(y, y + tile_rows, one.value) - y);
  });
  std::vector<model::sampled>& best = bounded_results_;
  best.assign(tasks.size(), {});
  std::vector<float>& tops = row_bounds_;     // not needed any more
  for (const candidate& one : candidates_) {  // tiles ascending: ties go to the lower id
    const auto i = static_cast<std::size_t>(one.row);
    if (one.best < 0) best[i].non_finite = true;
    if (best[i].id < 0 || one.value > tops[i]) {
      best[i].id = one.best;
      tops[i] = one.value;
    }
  }
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    if (best[i].non_finite) best[i].id = -1;
    out.slices[static_cast<std::size_t>(rows_[static_cast<std::size_t>(tasks[i].row)].slice)].next =
        best[i];
  }
}

}  // namespace foretoken::cpu
