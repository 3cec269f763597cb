// SPDX-License-Identifier: Apache-2.0
#include "cpu/step.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "base/assert.hpp"
#include "cpu/step_inline.hpp"
#include "model/batch_check.hpp"

namespace foretoken::cpu {
namespace {

int whole_tiles(int n) noexcept {
  return (n + tile_rows - 1) / tile_rows * tile_rows;
}

// The options with which the weights were made, where these decide.
options of_weights(const weights& made, options chosen) {
  chosen.path = made.path;
  chosen.precision = made.precision;
  return chosen;
}

// In fast, the head and the values of attention read inputs of 16 bits: an error of the head's hits
// the choice of the token directly, and the values' are 3 % of the work; docs/accuracy.md.
options of_precise(options chosen) {
  if (chosen.precision == numerics::fast) chosen.precision = numerics::exact;
  return chosen;
}

// A greedy row's candidates are found with inputs of 8 bits.
options of_rough(options chosen) {
  chosen.precision = numerics::fast;
  return chosen;
}

// Keys and values that a thread asks for ahead of attention: its part of the caches holds them.
constexpr std::size_t pages_ahead_max = 1024;
std::size_t pages_ahead(const kv_layout& layout) noexcept {
  constexpr std::size_t bytes_max = 4u << 20;
  return std::min(pages_ahead_max, bytes_max / layout.head_bytes());
}

std::vector<float> floats(int rows, int columns) {
  return std::vector<float>(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
}

}  // namespace

workspace_sizes::workspace_sizes(const model::hyperparameters& shape,
                                 const options& chosen) noexcept
    : rows(std::max(1, chosen.rows_max)),
      threads(thread_count(chosen)),
      // 32 rows of 49,152 logits are 6 MiB; the head's weights are read once per so many rows.
      head_rows(std::min(rows, 32)),
      width(shape.width),
      qkv(whole_tiles((shape.heads + 2 * shape.kv_heads) * shape.head_dim)),
      attention(shape.heads * shape.head_dim),
      hidden(interleaves(shape) ? 0 : (has_gate(shape) ? 2 : 1) * whole_tiles(shape.ffn)),
      logits(whole_tiles(shape.vocabulary)),
      output(whole_tiles(shape.width)),
      columns(std::max({shape.width, attention, shape.ffn})) {
  constexpr input_parts all{true, true};
  inputs = activations::bytes(rows, std::max(width, attention), chosen, all) +
           activations::bytes(rows, shape.ffn, chosen, all) +
           activations::bytes(head_rows, width, of_precise(chosen), all) +
           activations::bytes(head_rows, width, of_rough(chosen), all);
  if (chosen.precision == numerics::fast) {
    inputs += activations::bytes(rows, width, of_precise(chosen), all);
  }
  for (const auto& rope : shape.ropes) angles += static_cast<int>(rope.frequency.size());
}

// Everything a step writes besides the KV pages.
std::uint64_t workspace_sizes::bytes() const noexcept {
  const auto size = [](int n) { return static_cast<std::uint64_t>(n); };
  // a row: x, qkv, attention, hidden, output, cosines and sines
  const std::uint64_t row_floats =
      size(width) + size(qkv) + size(attention) + size(hidden) + size(output) + 2 * size(angles);
  // a thread: one row of norm output, a tile's results of every row, one row of keys and values as
  // f16, places of pages
  const std::uint64_t thread_bytes =
      (size(std::max(columns, qkv)) + size(rows) * size(tile_rows)) * 4 + size(qkv) * 2 +
      pages_ahead_max * sizeof(const std::byte*);
  return size(rows) * row_floats * 4 + inputs + size(threads) * thread_bytes +
         size(head_rows) * (size(logits) * 4 + size(logits) / tile_rows * 24 + size(width));
}

step::step(std::shared_ptr<const weights> from, const options& chosen, kv_pool pool)
    : weights_(std::move(from)),
      sizes_(weights_->shape, chosen),
      pool_(std::move(pool)),
      kv_saturated_(chosen.kv_saturated),
      kernels_(*find_row_kernels(weights_->path)),
      threads_(sizes_.threads, chosen.threads_working),
      inputs_(sizes_.rows,
              std::max(sizes_.width, sizes_.attention),
              of_weights(*weights_, chosen),
              weights_->layers_read()),
      hidden_inputs_(
          sizes_.rows, weights_->shape.ffn, of_weights(*weights_, chosen), weights_->down_reads()),
      head_inputs_(sizes_.head_rows,
                   sizes_.width,
                   of_precise(of_weights(*weights_, chosen)),
                   weights_->head->reads()),
      x_(floats(sizes_.rows, sizes_.width)),
      qkv_(floats(sizes_.rows, sizes_.qkv)),
      attention_(floats(sizes_.rows, sizes_.attention)),
      hidden_(floats(sizes_.rows, sizes_.hidden)),
      output_(floats(sizes_.rows, sizes_.output)),
      logits_(floats(sizes_.head_rows, sizes_.logits)),
      angles_(floats(sizes_.rows, 2 * sizes_.angles)),
      scratch_(floats(sizes_.threads, std::max(sizes_.columns, sizes_.qkv))),
      tiles_(floats(sizes_.threads * tile_rows, sizes_.rows)),
      half_(static_cast<std::size_t>(sizes_.threads) * static_cast<std::size_t>(sizes_.qkv)) {
  if (weights_->precision == numerics::fast) {
    precise_ = std::make_unique<activations>(sizes_.rows, sizes_.width,
                                             of_precise(of_weights(*weights_, chosen)),
                                             weights_->layers_read());
  }
  if (weights_->draft || !weights_->head_norms.empty()) {
    rough_ = std::make_unique<activations>(sizes_.head_rows, sizes_.width,
                                           of_rough(of_weights(*weights_, chosen)),
                                           input_parts{false, true});
    const auto head_rows = static_cast<std::size_t>(sizes_.head_rows);
    tile_ranges_.resize(head_rows * static_cast<std::size_t>(weights_->head->tiles()));
    energies_ = floats(sizes_.head_rows, (sizes_.width + 31) / 32);
    greedy_rows_.resize(head_rows);
    candidates_.reserve(tile_ranges_.size());
  }
  later_.reserve(static_cast<std::size_t>(sizes_.threads));
  for (int thread = 0; thread < sizes_.threads; ++thread) {
    later_.emplace_back(pages_ahead(pool_.layout()), pool_.layout().head_bytes());
  }
  rows_.reserve(static_cast<std::size_t>(sizes_.rows));
  tasks_.reserve(static_cast<std::size_t>(sizes_.rows));
  blocks_.reserve(static_cast<std::size_t>(sizes_.rows));
  int offset = 0;
  for (const auto& rope : weights_->shape.ropes) {
    rope_offset_.push_back(offset);
    offset += 2 * static_cast<int>(rope.frequency.size());
  }
}

void step::probe_logits(logits_probe probe, void* context) noexcept {
  probe_ = probe;
  probe_context_ = context;
}

status step::begin(const model::micro_batch& batch) {
  FORETOKEN_TRY(model::check_batch(*this, batch));
  batch_ = &batch;
  for (const model::page_copy& copy : batch.copies) {
    if (copy.from != copy.to) pool_.copy_page(copy.from, copy.to, copy.positions);
  }
  rows_.clear();
  blocks_.clear();
  constexpr int block_rows = 4;  // 4 rows x 3 query heads are a full attention tile
  for (std::size_t s = 0; s < batch.slices.size(); ++s) {
    const model::slice& one = batch.slices[s];
    const int count = static_cast<int>(one.tokens.size());
    for (int i = 0; i < count; ++i) {
      if (i % block_rows == 0) {
        blocks_.push_back({static_cast<int>(rows_.size()), std::min(block_rows, count - i)});
      }
      rows_.push_back(
          {one.tokens[static_cast<std::size_t>(i)], one.position + i, static_cast<int>(s), i});
    }
  }
  lone_blocks_ = blocks_.size() == batch.slices.size();
  list_pages();
  ask_for_pages(0);
  return {};
}

const float* step::angles(int row_index, int rope) const noexcept {
  return angles_.data() + at(row_index, 2 * sizes_.angles) +
         rope_offset_[static_cast<std::size_t>(rope)];
}

// Angles in double: at position 8,000 a float32 angle is already off by 5e-4.
void step::fill_angles(int row_index) {
  float* out = angles_.data() + at(row_index, 2 * sizes_.angles);
  const double position = rows_[static_cast<std::size_t>(row_index)].position;
  for (const auto& rope : shape().ropes) {
    const std::size_t pairs = rope.frequency.size();
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = position * static_cast<double>(rope.frequency[i]);
      out[i] = static_cast<float>(std::cos(angle));
      out[pairs + i] = static_cast<float>(std::sin(angle));
    }
    out += 2 * pairs;
  }
}

void step::embed_row(int row_index) {
  const row& one = rows_[static_cast<std::size_t>(row_index)];
  float* x = x_.data() + at(row_index, sizes_.width);
  model::dequantise(weights_->embedding, one.id, 1, x);
  const float scale = shape().embedding_scale;
  for (int i = 0; i < sizes_.width; ++i) x[i] *= scale;
  if (!shape().learned_positions) return;
  float* learned = output_.data() + at(row_index, sizes_.output);
  model::dequantise(weights_->positions, one.position, 1, learned);
  for (int i = 0; i < sizes_.width; ++i) x[i] += learned[i];
}

void step::embed() {
  each_row(static_cast<int>(rows_.size()), [&](int row_index, int) {
    fill_angles(row_index);
    embed_row(row_index);
  });
}

// Norm of a row of x, in the thread's scratch.
float* step::norm_row(int row_index,
                      const std::vector<float>& weight,
                      const std::vector<float>& bias,
                      int thread) {
  const float* x = x_.data() + at(row_index, sizes_.width);
  float* out = scratch_.data() + at(thread, std::max(sizes_.columns, sizes_.qkv));
  if (shape().norm == model::norm_kind::rms) {
    kernels_.rms_norm(x, weight.data(), sizes_.width, shape().norm_epsilon, out);
  } else {
    kernels_.layer_norm(x, weight.data(), bias.empty() ? nullptr : bias.data(), sizes_.width,
                        shape().norm_epsilon, out);
  }
  return out;
}

// x += post_norm(W inputs + bias).
void step::add_output(const linear& matrix,
                      const linear& following,
                      const activations& inputs,
                      const std::vector<float>& bias,
                      const std::vector<float>& post_norm) {
  const int count = static_cast<int>(rows_.size());
  float* target = post_norm.empty() ? x_.data() : output_.data();
  const int stride = post_norm.empty() ? sizes_.width : sizes_.output;
  each_tile(matrix, following, tile_inputs(inputs), count,
            [&](int tile, int first, int end, const float* y) {
              const int column = tile * tile_rows;
              const int columns = std::min(tile_rows, sizes_.width - column);
              for (int r = first; r < end; ++r, y += tile_rows) {
                float* to = target + at(r, stride) + column;
                const float* b = bias.empty() ? nullptr : bias.data() + column;
                for (int i = 0; i < columns; ++i) {
                  const float value = b ? y[i] + b[i] : y[i];
                  to[i] = post_norm.empty() ? to[i] + value : value;
                }
              }
            });
  if (post_norm.empty()) return;
  each_row(count, [&](int row_index, int thread) {
    float* normed = scratch_.data() + at(thread, std::max(sizes_.columns, sizes_.qkv));
    kernels_.rms_norm(output_.data() + at(row_index, sizes_.output), post_norm.data(), sizes_.width,
                      shape().norm_epsilon, normed);
    float* x = x_.data() + at(row_index, sizes_.width);
    for (int i = 0; i < sizes_.width; ++i) x[i] += normed[i];
  });
}

// A tile of gate and up in turns of 16 rows gives 32 values of h: one block of W_down's inputs.
void step::gate_tile(int tile, int first, int end, float* y) {
  const bool silu = shape().activation == model::activation_kind::silu_gate;
  (silu ? kernels_.silu_gate_tile : kernels_.gelu_gate_tile)(y, end - first);
  hidden_inputs_.set_block(first, end - first, tile * tile_rows / 2, y, tile_rows);
}

// The row forms: gate and up one below the other, or up alone with its bias.
void step::gate_row(int layer, int row_index) {
  float* h = hidden_.data() + at(row_index, sizes_.hidden);
  const int ffn = shape().ffn;
  if (!has_gate(shape())) {
    const std::vector<float>& bias = weights_->layers[static_cast<std::size_t>(layer)].up_bias;
    for (std::size_t i = 0; i < bias.size(); ++i) h[i] += bias[i];
    return kernels_.gelu(h, ffn);
  }
  const bool silu = shape().activation == model::activation_kind::silu_gate;
  (silu ? kernels_.silu_gate : kernels_.gelu_gate)(h, h + ffn, ffn, h);
}

void step::ffn_input(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const int count = static_cast<int>(rows_.size());
  each_row(count, [&](int row_index, int thread) {
    inputs_.set(row_index, norm_row(row_index, from.ffn_norm, from.ffn_norm_bias, thread),
                sizes_.width);
  });
  each_tile(*from.gate_up, *from.down, tile_inputs(inputs_), count,
            [&](int tile, int first, int end, float* y) {
              if (weights_->interleaved) return gate_tile(tile, first, end, y);
              const int column = tile * tile_rows;
              const int columns = std::min(tile_rows, from.gate_up->rows() - column);
              for (int r = first; r < end; ++r, y += tile_rows) {
                std::copy_n(y, columns, hidden_.data() + at(r, sizes_.hidden) + column);
              }
            });
  if (weights_->interleaved) return;
  each_row(count, [&](int row_index, int) {
    gate_row(layer, row_index);
    hidden_inputs_.set(row_index, hidden_.data() + at(row_index, sizes_.hidden), shape().ffn);
  });
}

// The matrix that is read after a layer's last one.
const linear& step::after_layer(int layer) const noexcept {
  const auto next = static_cast<std::size_t>(layer) + 1;
  if (next < weights_->layers.size()) return *weights_->layers[next].qkv;
  return drafts(rows_.size()) ? *weights_->draft : *weights_->head;
}

void step::ffn_output(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  add_output(*from.down, after_layer(layer), hidden_inputs_, from.down_bias, from.ffn_post_norm);
}

}  // namespace foretoken::cpu
