// SPDX-License-Identifier: Apache-2.0
#pragma once
// Attention of a layer: out = softmax(q k) v of one new position a row over paged keys and values.
//
// Work item: a span of 256 positions of one pair (row, KV head), by one block. A quad of warps
// takes a chunk of 64 positions, each warp one page for S = K q and 16 dims for O = V^T p of the
// four pages. Chunks fold ascending into the span here; spans travel to the block that merges the
// pair (pair % 16), fold ascending there, and the result goes to every block as input of the output
// projection. The rules of chunk, sum and fold are those of the general path (numerics.cuh,
// attention.cu). Bytes: 64 KB an item, in flight from the start of the layer for the first one: 2 x
// 16 registers a lane.

#include "gpu/cluster_finish.cuh"

namespace foretoken::gpu::cluster {

constexpr float lowest = -3.0e38f;  // stands for minus infinity; no score is lower

// Four parts {m, l} folded ascending into m and l; parts without weights are left out. keep, take:
// what became of the values before and of the part's own.
struct four_folds {
  float keep[4], take[4];
  bool live[4];
};
FORETOKEN_DEVICE void fold(float& m, float& l, const f32x2 (&part)[4], four_folds& out) {
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) {
    out.live[i] = part[i].y > 0;
    const float larger_m = out.live[i] ? larger(m, part[i].x) : m;
    out.keep[i] = natural_exp(m - larger_m);
    out.take[i] = natural_exp(part[i].x - larger_m);
    m = larger_m;
  }
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (out.live[i]) l = fused_multiply_add(l, out.keep[i], part[i].y * out.take[i]);
  }
}
FORETOKEN_DEVICE float folded(float o, const four_folds& by, int i, float v) {
  return by.live[i] ? fused_multiply_add(o, by.keep[i], v * by.take[i]) : o;
}

struct lines {
  u32x4 key[steps_head];    // this warp's page
  u32x4 value[steps_head];  // dims 16 (warp % 4) .. of the quad's four pages
};

// The K and V of a page and head, `number` in units of both, in the layer that starts at `kv`.
FORETOKEN_DEVICE const std::uint16_t* head_page(const std::uint16_t* kv, int number) {
  return kv + wide(number) * (2 * page_positions * head_dim);
}
template <class S>
FORETOKEN_DEVICE const std::uint16_t* layer_pages(const block<S>& b, int layer) {
  return b.job.kv + wide(layer) * wide(b.job.pages * S::kv_heads) * (2 * page_positions * head_dim);
}

template <class S>
FORETOKEN_DEVICE void load_keys(
    const block<S>& b, lines& l, const work_item& item, int n, const std::uint16_t* kv) {
  if (item.first + b.warp * page_positions > item.position) return;
  const int page =
      reinterpret_cast<const int*>(b.base() + memory<S>::pages)[n * span_pages + b.warp];
  const std::uint16_t* from = head_page(kv, page) + b.lane * 8;
  FORETOKEN_UNROLL
  for (int i = 0; i < steps_head; ++i) l.key[i] = load_line(from + i * 256);
}

template <class S>
FORETOKEN_DEVICE void load_values(
    const block<S>& b, lines& l, const work_item& item, int n, const std::uint16_t* kv) {
  const int quad = b.warp / 4;
  const u32x4 four = reinterpret_cast<const u32x4*>(b.base() + memory<S>::pages)[n * 4 + quad];
  const std::uint32_t page[4] = {four.x, four.y, four.z, four.w};
  const int live = item.position - (item.first + quad * 4 * page_positions);
  kv += page_positions * head_dim + b.warp % 4 * 256 + b.lane * 8;
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    l.value[k] = u32x4{0, 0, 0, 0};
    if (k * page_positions <= live)
      l.value[k] = load_line(head_page(kv, static_cast<int>(page[k])));
  }
}

// Where a thread's lines of the block's first span are in every layer, worked out once: in 16 bytes
// from the start of the layer.
struct first_lines {
  static constexpr std::uint32_t none = ~0u;
  std::uint32_t key = none, value[4] = {none, none, none, none};
};
template <class S>
FORETOKEN_DEVICE first_lines plan_first(const block<S>& b) {
  constexpr int pieces = 2 * page_positions * head_dim / 8;  // of a page and head
  first_lines out;
  if (b.table().spans == 0) return out;
  const work_item item = b.table().item[0];
  const auto* const pages = reinterpret_cast<const int*>(b.base() + memory<S>::pages);
  if (item.first + b.warp * page_positions <= item.position) {
    out.key = static_cast<std::uint32_t>(pages[b.warp] * pieces + b.lane);
  }
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    const int page = b.warp / 4 * 4 + k;
    if (item.first + page * page_positions > item.position) continue;
    out.value[k] =
        static_cast<std::uint32_t>(pages[page] * pieces + pieces / 2 + b.warp % 4 * 32 + b.lane);
  }
  return out;
}
template <class S>
FORETOKEN_DEVICE void load_first(const block<S>& b, lines& l, const first_lines& from, int layer) {
  const char* const kv = reinterpret_cast<const char*>(layer_pages(b, layer));
  FORETOKEN_UNROLL
  for (int i = 0; i < steps_head; ++i) {
    if (from.key != first_lines::none)
      l.key[i] = load_line(kv + static_cast<std::size_t>(from.key) * 16 + i * 512);
  }
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    l.value[k] = u32x4{0, 0, 0, 0};
    if (from.value[k] != first_lines::none)
      l.value[k] = load_line(kv + static_cast<std::size_t>(from.value[k]) * 16);
  }
}

// Place of this step's token in its page.
FORETOKEN_DEVICE int newest_token(const work_item& item) {
  static_assert(page_positions == 16);
  return item.position & 15;
}

// The key and value of this step's token take their place in the lines, wherever memory has them
// yet.
template <class S>
FORETOKEN_DEVICE void patch_key(const block<S>& b, lines& l, const work_item& item) {
  using at = memory<S>;
  const int token = newest_token(item);
  if (b.lane / 4 != (token & 7)) return;
  const char* const newest = b.base() + at::newest + item.pair * at::newest_bytes + b.lane % 4 * 8;
  FORETOKEN_UNROLL
  for (int i = 0; i < steps_head; ++i) {
    const u32x2 k = *reinterpret_cast<const u32x2*>(newest + i * 32);
    l.key[i].x = token < 8 ? k.x : l.key[i].x;
    l.key[i].y = token < 8 ? l.key[i].y : k.x;
    l.key[i].z = token < 8 ? k.y : l.key[i].z;
    l.key[i].w = token < 8 ? l.key[i].w : k.y;
  }
}

FORETOKEN_DEVICE std::uint32_t with_half(std::uint32_t pair, std::uint16_t half, bool upper) {
  return pick_bytes(pair, half, upper ? 0x5410u : 0x3254u);
}
template <class S>
FORETOKEN_DEVICE void patch_value(const block<S>& b, lines& l, const work_item& item) {
  using at = memory<S>;
  const int token = newest_token(item);
  if (b.lane % 4 != (token & 7) / 2) return;
  const auto* const newest = reinterpret_cast<const std::uint16_t*>(
      b.base() + at::newest + item.pair * at::newest_bytes + head_dim * 2);
  const int dim = b.warp % 4 * 16 + b.lane / 4;
  const std::uint16_t low = newest[dim], high = newest[dim + 8];
  const bool upper = (token & 1) != 0;
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    const bool here = k == (item.position >> 4 & 3);
    u32x4& v = l.value[k];
    v.x = here && token < 8 ? with_half(v.x, low, upper) : v.x;
    v.y = here && token < 8 ? with_half(v.y, high, upper) : v.y;
    v.z = here && token >= 8 ? with_half(v.z, low, upper) : v.z;
    v.w = here && token >= 8 ? with_half(v.w, high, upper) : v.w;
  }
}

// S of the warp's page, masked: [0], [1] token g of columns 2q, 2q + 1; [2], [3] token g + 8.
template <class S>
FORETOKEN_DEVICE void page_scores(const block<S>& b,
                                  float (&s)[4],
                                  const lines& l,
                                  const work_item& item) {
  using at = memory<S>;
  const int g = b.lane / 4, q = b.lane % 4;
  const char* const query = b.base() + at::query + item.pair * at::query_bytes + g * 32 + q * 8;
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) s[i] = 0;
  FORETOKEN_UNROLL
  for (int i = 0; i < steps_head; ++i) {
    u32x2 column{0, 0};
    if (g < S::group) column = *reinterpret_cast<const u32x2*>(query + i * S::group * 32);
    const std::uint32_t a[4] = {l.key[i].x, l.key[i].y, l.key[i].z, l.key[i].w};
    const std::uint32_t pair[2] = {column.x, column.y};
    mma_in_place(s, a, pair);
  }
  const int position = item.first + b.warp * page_positions + g;
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (position + 8 * (i / 2) > item.position) s[i] = lowest;
  }
}

// Where a lane's weights of a page are kept: f32 of columns in use, f16 as a B fragment.
template <class S>
FORETOKEN_DEVICE f32x4& score_place(const block<S>& b, int page) {
  return reinterpret_cast<f32x4*>(
      b.base() + memory<S>::weights)[page * memory<S>::score_lanes + b.lane % 4 * 8 + b.lane / 4];
}
template <class S>
FORETOKEN_DEVICE u32x2& weight_place(const block<S>& b, int page) {
  return reinterpret_cast<u32x2*>(b.base() + memory<S>::weights16)[page * (S::group * 4) + b.lane];
}

// From scores to weights: f16 for the product, f32 for their sum, both into shared memory. m:
// largest score of the chunk in columns 2q, 2q + 1.
template <class S>
FORETOKEN_DEVICE void page_weights(const block<S>& b, float (&s)[4], float (&m)[2]) {
  using at = memory<S>;
  const int q = b.lane % 4;
  m[0] = larger(s[0], s[2]);
  m[1] = larger(s[1], s[3]);
  FORETOKEN_UNROLL
  for (int mask = 16; mask >= 4; mask /= 2) {
    m[0] = larger(m[0], shuffle_xor(m[0], mask));
    m[1] = larger(m[1], shuffle_xor(m[1], mask));
  }
  float* const peaks = b.floats(at::peaks);
  if (b.lane < 4) *reinterpret_cast<f32x2*>(peaks + b.warp * 8 + 2 * q) = f32x2{m[0], m[1]};
  meet(meet_quads + b.warp / 4, 128);
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    const f32x2 other = *reinterpret_cast<const f32x2*>(peaks + (b.warp / 4 * 4 + k) * 8 + 2 * q);
    m[0] = larger(m[0], other.x);
    m[1] = larger(m[1], other.y);
  }
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) s[i] = s[i] > lowest ? natural_exp(s[i] - m[i % 2]) : 0.0f;
  if (2 * q < S::group) score_place(b, b.warp) = f32x4{s[0], s[1], s[2], s[3]};
  const u32x2 turned{transpose_8x8(half_pair(s[0], s[1])), transpose_8x8(half_pair(s[2], s[3]))};
  if (b.lane / 4 < S::group) weight_place(b, b.warp) = turned;
  meet(meet_quads + b.warp / 4, 128);
}

// Sum of the chunk's weights, columns 2q and 2q + 1.
template <class S>
FORETOKEN_DEVICE f32x2 chunk_sum(const block<S>& b) {
  f32x2 l{0, 0};
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    f32x4 p{0, 0, 0, 0};
    if (b.lane % 4 * 2 < S::group) p = score_place(b, b.warp / 4 * 4 + k);
    l.x = (l.x + p.x) + p.z;
    l.y = (l.y + p.y) + p.w;
  }
  FORETOKEN_UNROLL
  for (int mask = 16; mask >= 4; mask /= 2) {
    l.x += shuffle_xor(l.x, mask);
    l.y += shuffle_xor(l.y, mask);
  }
  return l;
}

template <class S>
struct chunk_results {  // of items n, in items_at_once places
  FORETOKEN_DEVICE static float* o(const block<S>& b, int n, int quad, int column) {
    return b.floats(memory<S>::input) + ((n * 4 + quad) * S::group + column) * head_dim;
  }
  FORETOKEN_DEVICE static float* ml(const block<S>& b, int n, int quad, int column) {
    return b.floats(memory<S>::chunk_ml) + ((n * 4 + quad) * 8 + column) * 2;
  }
};

// O of the warp's 16 dims, m and l into shared memory.
template <class S>
FORETOKEN_DEVICE void chunk_values(const block<S>& b, const lines& l, int n, const float (&m)[2]) {
  const int g = b.lane / 4, q = b.lane % 4, quad = b.warp / 4, part = b.warp % 4;
  float o[4] = {0, 0, 0, 0};
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) {
    u32x2 p{0, 0};
    if (g < S::group) p = weight_place(b, quad * 4 + k);
    const std::uint32_t a[4] = {l.value[k].x, l.value[k].y, l.value[k].z, l.value[k].w};
    const std::uint32_t pair[2] = {p.x, p.y};
    mma_in_place(o, a, pair);
  }
  const int place = part * 16 + g / 2 * 4 + g % 2;
  FORETOKEN_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (2 * q + i >= S::group) continue;
    float* const to = chunk_results<S>::o(b, n, quad, 2 * q + i) + place;
    to[0] = o[i];
    to[2] = o[2 + i];
  }
  if (part != 3) return;
  const f32x2 sum = chunk_sum(b);
  if (b.lane < 4) {
    *reinterpret_cast<f32x4*>(chunk_results<S>::ml(b, n, quad, 2 * q)) =
        f32x4{m[0], sum.x, m[1], sum.y};
  }
}

// Folds the four chunks of an item, 4 places a thread; the span goes to the block that merges it.
// `n`: the item's place; i: 0 .. 16 S::group - 1.
template <class S>
FORETOKEN_DEVICE void send_span(const block<S>& b, int n, int i, const work_item& item) {
  using at = memory<S>;
  const int column = i / 16, piece = i % 16;
  f32x2 part[4];
  f32x4 v[4];
  FORETOKEN_UNROLL
  for (int quad = 0; quad < 4; ++quad) {
    part[quad] = *reinterpret_cast<const f32x2*>(chunk_results<S>::ml(b, n, quad, column));
    v[quad] = *reinterpret_cast<const f32x4*>(chunk_results<S>::o(b, n, quad, column) + piece * 4);
  }
  float m = lowest, l = 0;
  float o[4] = {0, 0, 0, 0};
  four_folds by;
  fold(m, l, part, by);
  FORETOKEN_UNROLL
  for (int quad = 0; quad < 4; ++quad) {
    o[0] = folded(o[0], by, quad, v[quad].x);
    o[1] = folded(o[1], by, quad, v[quad].y);
    o[2] = folded(o[2], by, quad, v[quad].z);
    o[3] = folded(o[3], by, quad, v[quad].w);
  }
  const std::uint32_t to = b.local(at::spans + item.slot * at::span_bytes);
  const std::uint32_t arrival = shared_address(b.arrival(to_merge));
  send_16(to + column * 256 + piece * 16,
          u32x4{float_bits(o[0]), float_bits(o[1]), float_bits(o[2]), float_bits(o[3])}, arrival,
          item.pair & (blocks - 1));
  if (piece == 0) {
    send_8(to + S::group * 256 + column * 8, u32x2{float_bits(m), float_bits(l)}, arrival,
           item.pair & (blocks - 1));
  }
}

// A warp's share of an item: its page's scores, its 16 dims of the quad's values, into place n. The
// lines of the item after it are on their way when this returns.
template <class S>
FORETOKEN_DEVICE void attend_item(
    const block<S>& b, lines& l, const work_item& item, int n, int next, const std::uint16_t* kv) {
  const tables& t = b.table();
  const int quad = b.warp / 4;
  const int chunk = item.first + quad * 64;
  const bool more = next < t.spans;
  __builtin_assume(item.first >= 0 && item.position >= 0 && item.pair >= 0);
  const work_item after = t.item[more ? next : 0];
  if (chunk <= item.position) {
    float s[4] = {lowest, lowest, lowest, lowest}, m[2];
    if (item.first + b.warp * page_positions <= item.position) {
      if (item.position < item.first + (b.warp + 1) * page_positions) patch_key(b, l, item);
      __syncwarp();
      page_scores(b, s, l, item);
    }
    if (more) load_keys(b, l, after, next, kv);
    page_weights(b, s, m);
    if (item.position < chunk + 64) patch_value(b, l, item);
    __syncwarp();
    chunk_values<S>(b, l, n, m);
  } else {
    if (more) load_keys(b, l, after, next, kv);
    if (b.warp % 4 == 3 && b.lane < 4) {
      *reinterpret_cast<f32x4*>(chunk_results<S>::ml(b, n, quad, 2 * b.lane)) =
          f32x4{lowest, 0, lowest, 0};
    }
  }
  if (more) load_values(b, l, after, next, kv);
}

// All items of the block in one layer; `l` holds the lines of item 0. Quads go from item to item
// each for itself; the block meets when the places for results are full.
template <class S>
FORETOKEN_DEVICE void attend(const block<S>& b, lines& l, int layer) {
  const tables& t = b.table();
  const std::uint16_t* const kv = layer_pages(b, layer);
  FORETOKEN_UNROLL_BY(1)
  for (int first = 0; first < t.spans; first += memory<S>::items_at_once) {
    if (first > 0) meet(meet_block, threads);
    const int end = min(first + memory<S>::items_at_once, t.spans);
    FORETOKEN_UNROLL_BY(1)
    for (int n = first; n < end; ++n) attend_item(b, l, t.item[n], n - first, n + 1, kv);
    meet(meet_block, threads);
    const int tasks = (end - first) * S::group * 16;
    FORETOKEN_UNROLL_BY(1)
    for (int i = b.thread; i < tasks; i += threads) {
      const int n = i / (S::group * 16);
      send_span(b, n, i % (S::group * 16), t.item[first + n]);
    }
    __syncwarp();
  }
}

}  // namespace foretoken::gpu::cluster
