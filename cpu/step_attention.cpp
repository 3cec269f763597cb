// SPDX-License-Identifier: Apache-2.0
// The attention half of a layer: queries, keys and values, and what is read of them.
#include <cstring>

#include "base/counters.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/step.hpp"
#include "cpu/step_inline.hpp"

namespace foretoken::cpu {
namespace {

// Rotates the first 2 * pairs values of a head. angles: cosines, then sines.
void rotate(float* head, const float* angles, int pairs, bool neighbours) {
  for (int i = 0; i < pairs; ++i) {
    float& a = neighbours ? head[2 * i] : head[i];
    float& b = neighbours ? head[2 * i + 1] : head[i + pairs];
    const float cosine = angles[i];
    const float sine = angles[pairs + i];
    const float turned = a * cosine - b * sine;
    b = a * sine + b * cosine;
    a = turned;
  }
}

// In bf16, neighbouring keys are one word and go down a column of words.
void place_pairs(const kv_layout& layout,
                 std::byte* base,
                 const std::uint16_t* keys,
                 const std::uint16_t* values,
                 int slot) {
  const int dim = layout.head_dim;
  std::byte* k = base + kv_key_index(layout.type, 0, slot) * 2;
  constexpr int column = page_tokens * 4;
  for (int d = 0; d + 1 < dim; d += 2, k += column) std::memcpy(k, keys + d, 4);
  if (dim % 2 != 0) std::memcpy(k, keys + dim - 1, 2);
  auto* const v = reinterpret_cast<std::uint16_t*>(base + kv_key_bytes(layout.type, dim)) +
                  kv_value_index(layout.type, padded_dim(dim), 0, slot);
  for (int d = 0; d < dim; ++d) v[2 * d] = values[d];
}

// Keys go down a column, values along a row: row_kernels.hpp.
template <class Value>
void place(
    const kv_layout& layout, std::byte* base, const Value* keys, const Value* values, int slot) {
  const int dim = layout.head_dim;
  const int padded = padded_dim(dim);
  auto* k = reinterpret_cast<Value*>(base);
  for (int d = 0; d < dim; ++d) k[kv_key_index(layout.type, d, slot)] = keys[d];
  auto* v = reinterpret_cast<Value*>(base + kv_key_bytes(layout.type, dim));
  for (int d = 0; d < dim; ++d) v[kv_value_index(layout.type, padded, d, slot)] = values[d];
}

// Quants of one head's keys, then values, and the scale of each.
void place_int8(const kv_layout& layout,
                std::byte* base,
                const std::int8_t* quants,
                const float (&scales)[2],
                int slot) {
  const int dim = layout.head_dim;
  place(layout, base, quants, quants + dim, slot);
  const int keys_end = kv_key_bytes(layout.type, dim) - kv_scale_bytes(layout.type);
  const int values_end = kv_head_bytes(layout.type, dim) - kv_scale_bytes(layout.type);
  std::memcpy(base + keys_end + 4 * slot, &scales[0], sizeof(float));
  std::memcpy(base + values_end + 4 * slot, &scales[1], sizeof(float));
}

}  // namespace

// Norm and rotation of one query or key head, in place.
void step::shape_head(float* head, const std::vector<float>& norm, int layer, int row_index) {
  if (!norm.empty()) {
    kernels_.rms_norm(head, norm.data(), shape().head_dim, shape().norm_epsilon, head);
  }
  const int rope = shape().attention[static_cast<std::size_t>(layer)].rope;
  if (rope < 0) return;
  const auto pairs = shape().ropes[static_cast<std::size_t>(rope)].frequency.size();
  rotate(head, angles(row_index, rope), static_cast<int>(pairs), shape().rope_neighbours);
}

// Keys and values of one head into its page.
void step::append(
    int row_index, int layer, int kv_head, const float* keys, const float* values, int thread) {
  const row& one = rows_[static_cast<std::size_t>(row_index)];
  const model::slice& owner = batch_->slices[static_cast<std::size_t>(one.slice)];
  const auto page = owner.pages[static_cast<std::size_t>(one.position / page_tokens)];
  const int slot = one.position % page_tokens;
  const int dim = shape().head_dim;
  const kv_layout& layout = pool_.layout();
  std::byte* const base =
      pool_.head_base(layer, kv_head) + pool_.page_stride() * static_cast<std::size_t>(page);
  std::uint16_t* const half = half_.data() + at(thread, sizes_.qkv);
  int clamped = 0;
  if (layout.type == kv_type::f32) {
    place(layout, base, keys, values, slot);
  } else if (layout.type == kv_type::int8) {
    auto* const quants = reinterpret_cast<std::int8_t*>(half);
    place_int8(layout, base, quants,
               {kernels_.to_int8(keys, dim, quants), kernels_.to_int8(values, dim, quants + dim)},
               slot);
  } else {
    const bool pairs = layout.type == kv_type::bf16;
    const auto narrow = pairs ? kernels_.to_bf16 : kernels_.to_half;
    clamped = narrow(keys, dim, half) + narrow(values, dim, half + dim);
    if (pairs) {
      place_pairs(layout, base, half, half + dim, slot);
    } else {
      place(layout, base, half, half + dim, slot);
    }
  }
  if (clamped > 0 && kv_saturated_ != nullptr) {
    kv_saturated_->add(static_cast<std::uint64_t>(clamped));
  }
}

// Queries of one KV head, its keys and its values.
void step::finish_qkv(int row_index, int layer, int kv_head, int thread) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const int dim = shape().head_dim;
  const int group = shape().heads / shape().kv_heads;
  float* const qkv = qkv_.data() + at(row_index, sizes_.qkv);
  const int queries = kv_head * group * dim;
  const int keys = (shape().heads + kv_head) * dim;
  const int values = keys + shape().kv_heads * dim;
  const auto add_bias = [&](int first, int count) {
    if (from.qkv_bias.empty()) return;
    for (int i = first; i < first + count; ++i)
      qkv[i] += from.qkv_bias[static_cast<std::size_t>(i)];
  };
  add_bias(queries, group * dim);
  add_bias(keys, dim);
  add_bias(values, dim);
  for (int h = 0; h < group; ++h)
    shape_head(qkv + queries + h * dim, from.q_norm, layer, row_index);
  shape_head(qkv + keys, from.k_norm, layer, row_index);
  append(row_index, layer, kv_head, qkv + keys, qkv + values, thread);
}

// Tiles that hold a row of the values' matrix.
int step::first_precise_tile() const noexcept {
  return (shape().heads + shape().kv_heads) * shape().head_dim / tile_rows;
}

void step::attention_input(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const int count = static_cast<int>(rows_.size());
  each_row(count, [&](int row_index, int thread) {
    const float* normed =
        norm_row(row_index, from.attention_norm, from.attention_norm_bias, thread);
    inputs_.set(row_index, normed, sizes_.width);
    if (precise_) precise_->set(row_index, normed, sizes_.width);
  });
  const tile_inputs inputs(inputs_, precise_inputs(), first_precise_tile());
  each_tile(*from.qkv, *from.o, inputs, count, [&](int tile, int first, int end, const float* y) {
    for (int r = first; r < end; ++r, y += tile_rows) {
      std::copy_n(y, tile_rows, qkv_.data() + at(r, sizes_.qkv) + tile * tile_rows);
    }
  });
  if (lone_blocks_) return;  // attention() does the rest
  each_row(count, [&](int row_index, int thread) {
    for (int head = 0; head < shape().kv_heads; ++head) finish_qkv(row_index, layer, head, thread);
  });
}

const page_id* step::pages_of(const block& rows) const noexcept {
  const row& first = rows_[static_cast<std::size_t>(rows.first)];
  return batch_->slices[static_cast<std::size_t>(first.slice)].pages.data();
}

// The rows of a block, all query heads of one KV head.
void step::attend_block(int layer, int index, int kv_head) {
  const block& rows = blocks_[static_cast<std::size_t>(index)];
  const bool last = index == 0;  // of this head
  const block& following = last ? blocks_.back() : blocks_[static_cast<std::size_t>(index - 1)];
  const row& first = rows_[static_cast<std::size_t>(rows.first)];
  const model::layer_attention& rule = shape().attention[static_cast<std::size_t>(layer)];
  const int dim = shape().head_dim;
  const int group = shape().heads / shape().kv_heads;
  attention_job job;
  job.pages = pages_of(rows);
  job.base = pool_.head_base(layer, kv_head);
  if (!last || kv_head + 1 < shape().kv_heads) {
    job.pages_after = pages_of(following);
    job.base_after = pool_.head_base(layer, last ? kv_head + 1 : kv_head);
    job.position_after = rows_[static_cast<std::size_t>(following.first)].position;
  }
  job.page_stride = pool_.page_stride();
  job.head_dim = dim;
  job.window = rule.window;
  job.scale = shape().query_scale;
  job.softcap = shape().attention_softcap;
  job.type = pool_.layout().type;
  job.bf16_products = weights_->precision == numerics::fast && features().avx512_bf16;
  for (int i = 0; i < rows.count * group; ++i) {
    const int r = rows.first + i / group;
    const int head = kv_head * group + i % group;
    job.queries[job.query_count++] = {qkv_.data() + at(r, sizes_.qkv) + head * dim,
                                      attention_.data() + at(r, sizes_.attention) + head * dim,
                                      first.position + i / group};
    if (job.query_count < attention_tile && i + 1 < rows.count * group) continue;
    kernels_.attend(job);
    job.query_count = 0;
  }
  if (!sets_outputs()) return;
  const int columns = group * dim;
  for (int r = rows.first; r < rows.first + rows.count; ++r) {
    inputs_.set_part(r, kv_head * columns,
                     attention_.data() + at(r, sizes_.attention) + kv_head * columns, columns);
  }
}

// Whether the heads of one KV head are whole blocks of W_o's inputs, so that who attends sets them.
bool step::sets_outputs() const noexcept {
  return shape().heads / shape().kv_heads * shape().head_dim % 32 == 0;
}

// What the threads' shares of attention read, in the first layer; of rows of one slice, the last
// block reads what the others do.
void step::list_pages() {
  const int count = static_cast<int>(blocks_.size());
  const int tickets = count * shape().kv_heads;
  for (int thread = 0; thread < threads_.threads(); ++thread) {
    read_list& list = later_[static_cast<std::size_t>(thread)];
    list.clear();
    const int end = threads_.first_ticket(thread + 1, tickets);
    int ticket = threads_.first_ticket(thread, tickets);
    while (ticket < end && list_pages_of(count - 1 - ticket % count, ticket / count, list))
      ++ticket;
  }
}

// False when the list is full.
bool step::list_pages_of(int index, int kv_head, read_list& list) const {
  const block& rows = blocks_[static_cast<std::size_t>(index)];
  const row& last = rows_[static_cast<std::size_t>(rows.first + rows.count - 1)];
  const model::slice& owner = batch_->slices[static_cast<std::size_t>(last.slice)];
  if (last.index + 1 < static_cast<int>(owner.tokens.size())) return true;
  const std::byte* const base = pool_.head_base(0, kv_head);
  for (int page = 0; page <= last.position / page_tokens; ++page) {
    const auto id = static_cast<std::size_t>(owner.pages[static_cast<std::size_t>(page)]);
    if (!list.add(base + pool_.page_stride() * id)) return false;
  }
  return true;
}

// Behind the last layer: for none.
void step::ask_for_pages(int layer) noexcept {
  const std::size_t offset = pool_.layout().layer_page_bytes() * static_cast<std::size_t>(layer);
  for (read_list& list : later_) {
    if (layer < shape().layers) {
      list.begin(offset);
    } else {
      list.clear();
    }
  }
}

// A head after the other, so that blocks of one slice, and sequences that share a prefix, find its
// pages in the caches: read once from memory. Late rows of a slice see most: they go first. Where
// no block reads what another one writes, each writes its own keys and values.
void step::attention(int layer) {
  const int count = static_cast<int>(blocks_.size());
  threads_.run(count * shape().kv_heads, [&](int ticket, int thread) {
    const int index = count - 1 - ticket % count, head = ticket / count;
    if (lone_blocks_) {
      const block& rows = blocks_[static_cast<std::size_t>(index)];
      for (int r = rows.first; r < rows.first + rows.count; ++r) {
        finish_qkv(r, layer, head, thread);
      }
    }
    attend_block(layer, index, head);
  });
  ask_for_pages(layer + 1);
}

void step::attention_output(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  if (!sets_outputs()) {
    each_row(static_cast<int>(rows_.size()), [&](int row_index, int) {
      inputs_.set(row_index, attention_.data() + at(row_index, sizes_.attention), sizes_.attention);
    });
  }
  add_output(*from.o, *from.gate_up, inputs_, from.o_bias, from.attention_post_norm);
}

}  // namespace foretoken::cpu
