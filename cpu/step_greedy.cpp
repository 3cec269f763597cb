// SPDX-License-Identifier: Apache-2.0
// The best token of greedy rows, without their logits: a cheaper pass over the head says between
// which values every tile's largest logit lies, and the tiles that may hold the best one are
// computed as the full pass computes them. First the tile whose lower bound is the highest: its
// best logit is the floor that the others' upper bounds must reach. In both cheaper passes the two
// largest inputs are multiplied exactly, apart from the rest: they often hold half of the square of
// |x|, and an error grows with what is left.
//
// Few rows wait for memory: they read the draft, the head in 4 bits, half of what the head takes. A
// draft's weight is off by at most half its scale d, and rounding errors are spread evenly and
// independent of each other, so over the columns of x a logit's error has the variance
//   sum over blocks b of d_b^2 (|x|_b^2 / 12 + 64 |x - x8|_b^2)
// where the second term is of the inputs' 8 bits (a weight is at most 8 d). The bound is six of
// these standard deviations: it is statistical, no certainty. The token is lost only when the one
// row that is the best has an error beyond it, which is one time in 10^9 for errors as large as
// this variance says. Measured over all rows of the head at 316 positions of the texts in
// tests/data they are smaller: 0.88 standard deviations, the largest of 15 million 4.9.
//
// More rows wait for multiplications: they read the head itself with inputs of 8 bits, N K byte
// products a row instead of 2 N K. A logit is then off by w (x16 - x8), at most |w| |x16 - x8|,
// both lengths known for every row of w and x: this bound always holds.
//
// At those positions the draft leaves 7.5 tiles of 768 (half of the positions 3 or fewer), the
// head's 8 bits 1.6. Where nothing is clear all tiles are computed: slow, not wrong. Which tiles
// are computed depends on the row alone, and every token is the full pass's.

#include <cmath>
#include <limits>
#include <numeric>

#include "cpu/step.hpp"
#include "cpu/step_inline.hpp"

namespace foretoken::cpu {
namespace {

constexpr double deviations = 6;
// Rows up to which the draft is faster. The head of SmolLM2-135M, us a step in full, with inputs of
// 8 bits, with the draft (EPYC Zen 4, 2 threads, 2026-11-24): 862, 793, 529 of one row; 892, 1054,
// 870 of four; 1146, 1047, 1319 of six; 3152, 1774, 2810 of sixteen.
constexpr std::size_t draft_rows_max = 4;
constexpr int block_columns = 32;

// Rounding of the float sums in both passes, relative to |w| |x|: 4 operations a group of 16 or
// more columns; 16 for types whose scaled quants are larger than their weights.
double rounding(int columns) noexcept {
  return 16.0 * (columns / 4.0 + 16.0) * 0x1p-24;
}

double squares_of(const float* x, int count) noexcept {
  double sum = 0;
  for (int k = 0; k < count; ++k) sum += static_cast<double>(x[k]) * x[k];
  return sum;
}

// A column's 64 quants of four bytes or as many floats, and its scales.
void ask_for(const matrix_column& column) noexcept {
  for (std::size_t i = 0; i < 4 * tile_rows; i += 64) __builtin_prefetch(column.first + i);
  if (column.scales == nullptr) return;
  for (std::size_t i = 0; i < 2 * tile_rows; i += 64) __builtin_prefetch(column.scales + i);
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

// The first `count` of tasks_ that need no logits; they are moved to the front.
std::size_t step::split_greedy() {
  const bool possible = !tile_ranges_.empty() && probe_ == nullptr && shape().final_softcap == 0;
  if (!possible) return 0;
  const auto others = std::stable_partition(
      tasks_.begin(), tasks_.end(), [this](const head_task& task) { return is_greedy(task); });
  return static_cast<std::size_t>(others - tasks_.begin());
}

// A head of floats has no pass with 8-bit inputs.
bool step::drafts(std::size_t rows) const noexcept {
  return weights_->draft && (rows <= draft_rows_max || weights_->head_norms.empty());
}

// Takes the largest inputs out of x. With a head of 4 bits all stay.
void step::set_apart(greedy_row& one, float* x) const noexcept {
  if (!weights_->draft) return;
  for (auto& largest : one.apart) {
    largest = {0, x[0]};
    for (int k = 1; k < sizes_.width; ++k) {
      if (std::abs(x[k]) > std::abs(largest.value)) largest = {k, x[k]};
    }
    x[largest.column] = 0;
  }
}

// Inputs of both passes, and what bounds their difference; x is used up.
void step::set_greedy_inputs(int i, float* x, bool draft) {
  const int width = sizes_.width, groups = (width + block_columns - 1) / block_columns;
  greedy_row& one = greedy_rows_[static_cast<std::size_t>(i)];
  float* const energies = energies_.data() + at(i, groups);
  const auto length_of_errors = [&](activations& inputs) {
    inputs.set(i, x, width);
    inputs.errors(i, x, width, energies);
    return std::sqrt(std::accumulate(energies, energies + groups, 0.0));
  };
  const double rounded = rounding(width) * std::sqrt(squares_of(x, width));
  double unit = rounded + length_of_errors(head_inputs_);
  set_apart(one, x);
  unit += length_of_errors(*rough_);
  one.unit = static_cast<float>(1.00001 * unit);
  if (!draft) return;
  for (int b = 0; b < groups; ++b) {
    const double here = squares_of(x + b * block_columns, block_columns);
    const double variance = here / 12 + 64 * static_cast<double>(energies[b]);
    energies[b] = static_cast<float>(deviations * deviations * variance +
                                     64 * block_columns * rounded * rounded);
  }
}

void step::add_apart(int i, int tile, apart_columns& columns, float* y) const noexcept {
  if (!weights_->draft) return;
  const greedy_row& one = greedy_rows_[static_cast<std::size_t>(i)];
  for (std::size_t n = 0; n < std::size(one.apart); ++n) {
    const auto& [column, value] = one.apart[n];
    if (columns.number[n] != column) {
      columns.number[n] = column;
      kernels_.read_column(weights_->head->column(tile, column), columns.weights[n]);
    }
    kernels_.add_column(columns.weights[n], value, y);
  }
}

int step::rows_of_tile(int tile) const noexcept {
  return std::min(tile_rows, shape().vocabulary - tile * tile_rows);
}

value_range step::draft_range(int i, int tile, const float* y) const noexcept {
  const linear& head = *weights_->head;
  for (const auto& each : greedy_rows_[static_cast<std::size_t>(i)].apart) {
    if (tile + 1 < head.tiles()) ask_for(head.column(tile + 1, each.column));
  }
  const linear::scale_places scales = weights_->draft->scales(tile);
  float errors[tile_rows];
  kernels_.scale_spread(scales.first, scales.stride, energies_.data() + at(i, scales.blocks),
                        scales.blocks, errors);
  return kernels_.largest_of(y, errors, 1, rows_of_tile(tile));
}

value_range step::bounded_range(int i, int tile, const float* y) const noexcept {
  const float* const norms = weights_->head_norms.data() + at(tile, tile_rows);
  const float unit = greedy_rows_[static_cast<std::size_t>(i)].unit;
  return kernels_.largest_of(y, norms, unit, rows_of_tile(tile));
}

// The cheaper pass.
void step::find_ranges(int count, bool draft) {
  const linear& matrix = draft ? *weights_->draft : *weights_->head;
  each_tile(matrix, *weights_->layers.front().qkv, tile_inputs(*rough_), count,
            [&](int tile, int first, int end, float* y) {
              apart_columns columns;
              for (int r = first; r < end; ++r, y += tile_rows) {
                add_apart(r, tile, columns, y);
                tile_ranges_[at(r, matrix.tiles()) + static_cast<std::size_t>(tile)] =
                    draft ? draft_range(r, tile, y) : bounded_range(r, tile, y);
              }
            });
}

// A tile as the full pass computes it; `next` is what the thread reads after it.
void step::compute_tile(candidate& one, int thread, const std::byte* next) {
  float* const all = tiles_.data() + at(thread, sizes_.rows * tile_rows);
  weights_->head->apply(one.tile, head_inputs_, one.row, one.row + 1, all, tile_rows, {next});
  const float* const y = all + at(one.row, tile_rows);
  const int count = rows_of_tile(one.tile);
  one.value = kernels_.largest_of(y, y, 0, count).high;
  one.best = one.tile * tile_rows + static_cast<int>(std::find(y, y + count, one.value) - y);
}

void step::find_leader(int i, int thread) {
  const auto tiles = static_cast<std::size_t>(weights_->head->tiles());
  const value_range* const ranges = tile_ranges_.data() + static_cast<std::size_t>(i) * tiles;
  candidate& leader = greedy_rows_[static_cast<std::size_t>(i)].leader;
  leader = {i, 0, -1, 0};
  float highest = -std::numeric_limits<float>::infinity();
  for (std::size_t t = 0; t < tiles; ++t) {
    if (!(ranges[t].low > highest)) continue;
    highest = ranges[t].low;
    leader.tile = static_cast<int>(t);
  }
  compute_tile(leader, thread, nullptr);
}

// Fills candidates_ with the other tiles that may hold a row's best token: those, too, whose values
// are not finite.
void step::collect_candidates(int count) {
  const auto tiles = static_cast<std::size_t>(weights_->head->tiles());
  candidates_.clear();
  for (int i = 0; i < count; ++i) {
    const value_range* const ranges = tile_ranges_.data() + static_cast<std::size_t>(i) * tiles;
    const candidate& leader = greedy_rows_[static_cast<std::size_t>(i)].leader;
    for (std::size_t t = 0; t < tiles; ++t) {
      const int tile = static_cast<int>(t);
      if (ranges[t].high < leader.value || tile == leader.tile) continue;
      candidates_.push_back({i, tile, -1, 0});
    }
  }
}

void step::run_greedy_block(std::span<const head_task> tasks, model::step_result& out) {
  const int count = static_cast<int>(tasks.size());
  const bool draft = drafts(tasks.size());
  each_row(count, [&](int i, int thread) {
    const int row_index = tasks[static_cast<std::size_t>(i)].row;
    float* const x = norm_row(row_index, weights_->final_norm, weights_->final_norm_bias, thread);
    set_greedy_inputs(i, x, draft);
  });
  find_ranges(count, draft);
  threads_.run(count, [&](int i, int thread) { find_leader(i, thread); });
  collect_candidates(count);
  threads_.run(static_cast<int>(candidates_.size()), [&](int ticket, int thread) {
    candidate* const one = candidates_.data() + ticket;
    const bool last = one == &candidates_.back();
    compute_tile(*one, thread, last ? nullptr : weights_->head->tile_data(one[1].tile));
  });
  for (const candidate& one : candidates_) {
    candidate& leader = greedy_rows_[static_cast<std::size_t>(one.row)].leader;
    const bool better =
        one.value > leader.value || (one.value == leader.value && one.best < leader.best);
    if (better || std::isnan(one.value)) leader = one;
  }
  for (int i = 0; i < count; ++i) {
    const candidate& best = greedy_rows_[static_cast<std::size_t>(i)].leader;
    const row& owner = rows_[static_cast<std::size_t>(tasks[static_cast<std::size_t>(i)].row)];
    model::sampled& next = out.slices[static_cast<std::size_t>(owner.slice)].next;
    next = {};
    next.non_finite = std::isnan(best.value);
    if (!next.non_finite) next.id = best.best;
  }
}

}  // namespace foretoken::cpu
