// SPDX-License-Identifier: Apache-2.0
// q, k, v = W norm(x) + b; per-head norms; rope; q to f16, k and v appended to their pages.
//
// One product (linear.cuh) whose epilogue rotates: the two values of a rotary pair stand in rows g
// and g + 8 of a tile, so one thread has both. With norms of heads, the product leaves its rows in
// float and a second kernel, one warp a head, norms, rotates and places them; likewise where keys
// and values are kept as codes, whose scale takes the whole head. Bytes: the matrix once, (heads +
// 2 kv_heads) head_dim 2 a row written.

#include "gpu/heads.cuh"
#include "gpu/linear_launch.cuh"

namespace foretoken::gpu {
namespace {

// Tiles of 16 rows of a head, and which head a tile belongs to without a division.
struct head_tiles {
  int each, inverse;
  explicit head_tiles(int head_dim)
      : each(head_dim / 16), inverse(((1 << 16) + head_dim / 16 - 1) / (head_dim / 16)) {}
  FORETOKEN_DEVICE int head(int tile) const { return tile * inverse >> 16; }  // tile < 4096
  FORETOKEN_DEVICE int within(int tile) const { return tile - head(tile) * each; }
};

struct place_epilogue {
  head_placement placement;
  head_tiles tiles;
  using kept = head_placement::kept;
  FORETOKEN_DEVICE void before_wait(const epilogue_item& item, kept& k) const {
    if (!item.wanted) return;
    placement.load(tiles.head(item.tile), tiles.within(item.tile), item.g, item.row, k);
  }
  FORETOKEN_DEVICE void after_wait(const epilogue_item&, kept&) const {}
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept& k, float y0, float y1) const {
    if (!item.wanted) return;
    placement.place(tiles.head(item.tile), tiles.within(item.tile), item.g, item.row, k, y0, y1);
  }
};

// Rows of q, k and v in the model's order, [rows][stride].
struct raw_epilogue {
  head_placement placement;
  head_tiles tiles;
  float* raw = nullptr;
  int stride = 0;
  struct kept {};
  FORETOKEN_DEVICE void before_wait(const epilogue_item&, kept&) const {}
  FORETOKEN_DEVICE void after_wait(const epilogue_item&, kept&) const {}
  template <int Apart>
  FORETOKEN_DEVICE void pair(const epilogue_item& item, const kept&, float y0, float y1) const {
    if (!item.wanted) return;
    const int head = tiles.head(item.tile);
    const int within = tiles.within(item.tile);
    int a = within * 16 + item.g;
    int b = a + 8;
    if (head < placement.heads + placement.kv_heads) {
      placement.dimensions(within, item.g, a, b);
    }
    float* to = raw + wide(item.row) * wide(stride) + head * placement.head_dim;
    to[a] = y0;
    to[b] = y1;
  }
};

struct finish_job {
  head_placement placement;
  const float* raw;
  const float* q_norm;
  const float* k_norm;
  float epsilon;
  int stride;
};

constexpr int finish_warps = 4;

// A key or value as codes, by one warp; `values` holds the head's, and after this the rotated ones.
FORETOKEN_DEVICE void place_codes(
    const head_placement& to, float* values, int head, int row, int lane) {
  float largest = 0;
  for (int i = lane; i < to.head_dim / 2; i += 32) {
    int a = i / 8 * 16 + i % 8, b = a + 8;
    if (head < to.heads + to.kv_heads) to.dimensions(i / 8, i % 8, a, b);
    head_placement::kept kept;
    to.load(head, i / 8, i % 8, row, kept);
    float y0 = values[a], y1 = values[b];
    to.turn(head, i / 8, i % 8, kept, a, b, y0, y1);
    values[a] = to.saturated_value(y0);
    values[b] = to.saturated_value(y1);
    largest = larger(largest, larger(fabsf(values[a]), fabsf(values[b])));
  }
  const kv_coder coder(warp_max(largest));
  warp_sync();
  const bool is_key = head < to.heads + to.kv_heads;
  const int token = to.rows.position[row] % 16;
  std::uint16_t* const page = to.page_of(row, head - to.heads - (is_key ? 0 : to.kv_heads));
  auto* const codes =
      reinterpret_cast<unsigned char*>(page) + (is_key ? 0 : 16 * wide(to.head_dim));
  for (int d = lane; d < to.head_dim; d += 32) {
    codes[is_key ? key_offset(token, d) : value_offset(token, d)] = coder.code(values[d]);
  }
  if (lane == 0) page[16 * to.head_dim + (is_key ? 0 : 16) + token] = coder.scale_half;
}

// One warp a head: block (heads / 4, rows).
FORETOKEN_KERNEL(finish_warps * 32, 1) finish_heads(const finish_job job) {
  const head_placement& to = job.placement;
  const int lane = thread_index() % 32;
  const int head = block_x() * finish_warps + thread_index() / 32;
  const int row = block_y();
  auto* const values =
      reinterpret_cast<float*>(shared_memory()) + thread_index() / 32 * to.head_dim;
  wait_for_predecessor();
  release_successor();
  if (head < to.heads + 2 * to.kv_heads) {
    const float* from = job.raw + wide(row) * wide(job.stride) + head * to.head_dim;
    for (int i = lane; i < to.head_dim; i += 32) values[i] = from[i];
    const bool is_query = head < to.heads;
    const float* gain = is_query ? job.q_norm : job.k_norm;
    if (head < to.heads + to.kv_heads && gain != nullptr) {
      const float inverse =
          inverse_root(row_sum_of_squares(values, to.head_dim, lane), to.head_dim, job.epsilon);
      for (int i = lane; i < to.head_dim; i += 32) values[i] = normed(values[i], inverse, gain[i]);
    }
    warp_sync();
    if (!is_query && to.form == kv_form::int8) {
      place_codes(to, values, head, row, lane);
      return;
    }
    for (int i = lane; i < to.head_dim / 2; i += 32) {
      int a = i / 8 * 16 + i % 8;
      int b = a + 8;
      if (head < to.heads + to.kv_heads) to.dimensions(i / 8, i % 8, a, b);
      head_placement::kept kept;
      to.load(head, i / 8, i % 8, row, kept);
      to.place(head, i / 8, i % 8, row, kept, values[a], values[b]);
    }
  }
}

status check(const attention_input_arguments& given) {
  if (given.head_dim % 16 != 0 || given.head_dim > 256) {
    return unsupported("head_dim", "heads of " + std::to_string(given.head_dim) + " values");
  }
  if (given.angles != nullptr && (given.pairs % 8 != 0 || given.pairs * 2 > given.head_dim)) {
    return unsupported("rope", "rotates " + std::to_string(2 * given.pairs) + " values of a head");
  }
  if (given.qkv.rows > 16 * 4096) return unsupported("heads", "too many");
  if (given.qkv.rows != (given.heads + 2 * given.kv_heads) * given.head_dim) {
    return invalid("qkv", "rows are not those of the heads");
  }
  return {};
}

}  // namespace

status launch_attention_input(const launch_context& on, const attention_input_arguments& given) {
  FORETOKEN_TRY(check(given));
  const workspace& work = given.work;
  const int width = given.qkv.columns;
  if (given.norm.kind == model::norm_kind::layer) {
    FORETOKEN_TRY(launch_layer_norm(on, given.norm, work, given.rows.rows, width));
  }
  const linear_job job{normed_input(work, given.norm, given.rows.rows, width), given.qkv};
  const head_placement placement{given.rows,
                                 work.q,
                                 given.kv,
                                 work.kv_saturated,
                                 given.angles,
                                 given.heads,
                                 given.kv_heads,
                                 given.head_dim,
                                 given.angles ? given.pairs : 0,
                                 given.rope_neighbours,
                                 given.query_scale,
                                 given.form};
  if (given.q_norm == nullptr && given.k_norm == nullptr && given.form == kv_form::f16) {
    return launch_linear(on, job, place_epilogue{placement, head_tiles(given.head_dim)});
  }
  FORETOKEN_TRY(launch_linear(
      on, job, raw_epilogue{placement, head_tiles(given.head_dim), work.raw, given.qkv.rows}));
  const int heads = given.heads + 2 * given.kv_heads;
  const finish_job finish{
      placement, work.raw, given.q_norm, given.k_norm, given.head_norm_epsilon, given.qkv.rows};
  return launch(on, finish_heads, {blocks_of(heads, finish_warps), given.rows.rows, 1},
                finish_warps * 32, finish_warps * given.head_dim * 4, finish);
}

}  // namespace foretoken::gpu
