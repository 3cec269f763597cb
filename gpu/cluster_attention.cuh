// SPDX-License-Identifier: Apache-2.0
#pragma once
// Attention of a layer: out = softmax(q k) v of one new position a row over paged keys and values.
//
// Work item: a span of 256 positions of one pair (row, KV head), by one block. A warp takes a chunk
// of 64 positions of it whole, S = K q, exponentials, O = V^T p, and meets nobody; a block has 16
// chunks at once, of whole spans. Chunks fold ascending into the span, spans travel to the block
// that merges the pair (pair % 16), fold ascending there, and the result goes to every block as
// input of the output projection. The rules of chunk, sum and fold are those of the general path
// (numerics.cuh, attention.cu). Bytes: 8 KB of keys a chunk, into registers, half of them from the
// start of the layer on, and 8 KB of values, into slots that wait for weights. A multiprocessor
// takes in 30 bytes a cycle, so 12 chunks are worth 6,500 cycles and must come all the time.

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

// A chunk's keys, [page][k-step].
struct lines {
  u32x4 of[chunk_pages][steps_head];
};

// The K and V of a page and head, `number` in units of both, in the layer that starts at `kv`.
FORETOKEN_DEVICE const std::uint16_t* head_page(const std::uint16_t* kv, int number) {
  return kv + wide(number) * (2 * page_positions * head_dim);
}
template <class S>
FORETOKEN_DEVICE const std::uint16_t* layer_pages(const block<S>& b, int layer) {
  return b.job.kv + wide(layer) * wide(b.job.pages * S::kv_heads) * (2 * page_positions * head_dim);
}

// The chunk that a warp, or this one, has in a turn, item * span_chunks + its number in it;
// negative: none.
template <class S>
FORETOKEN_DEVICE int chunk_of(const block<S>& b, int turn, int warp) {
  const tables& t = b.table();
  return turn < t.turns ? t.chunk[turn][warp] : -1;
}
template <class S>
FORETOKEN_DEVICE int chunk_of(const block<S>& b, int turn) {
  return chunk_of(b, turn, b.warp);
}

// Where this lane's part of a chunk's pages is in a layer.
template <class S>
FORETOKEN_DEVICE void locate(const block<S>& b,
                             int chunk,
                             const std::uint16_t* kv,
                             const char* (&at)[chunk_pages]) {
  const u32x4 four = reinterpret_cast<const u32x4*>(b.base() + memory<S>::pages)[chunk];
  const std::uint32_t page[chunk_pages] = {four.x, four.y, four.z, four.w};
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    at[p] = reinterpret_cast<const char*>(head_page(kv, static_cast<int>(page[p]))) + b.lane * 16;
  }
}

// Keys of pages First to End - 1. A warp without a chunk clears them: registers written on one
// path alone would be kept round the loop of layers.
template <int First, int End, class S>
FORETOKEN_DEVICE void load_keys(const block<S>& b, lines& l, int chunk, int layer) {
  if (chunk < 0) {
    FORETOKEN_UNROLL
    for (int p = First; p < End; ++p) {
      FORETOKEN_UNROLL
      for (int i = 0; i < steps_head; ++i) l.of[p][i] = u32x4{0, 0, 0, 0};
    }
    return;
  }
  const char* at[chunk_pages];
  locate(b, chunk, layer_pages(b, layer), at);
  FORETOKEN_UNROLL
  for (int p = First; p < End; ++p) {
    FORETOKEN_UNROLL
    for (int i = 0; i < steps_head; ++i) l.of[p][i] = load_line(at[p] + i * 512);
  }
}

// Values of a chunk to the place of a warp: page `page` of it by this lane, who also expects all of
// them if it is the first.
template <class S>
FORETOKEN_DEVICE void copy_values(const block<S>& b, int warp, int chunk, int page, int layer) {
  barrier* const arrival = b.weight_barrier(warp, values_arrive);
  if (page == 0) barrier_expect(arrival, chunk_bytes);
  const int number =
      reinterpret_cast<const int*>(b.base() + memory<S>::pages)[chunk * chunk_pages + page];
  bulk_copy(b.base() + memory<S>::values(warp) + page * (chunk_bytes / chunk_pages),
            head_page(layer_pages(b, layer), number) + page_positions * head_dim,
            chunk_bytes / chunk_pages, arrival);
}
// Of this warp's chunk.
template <class S>
FORETOKEN_DEVICE void load_values(const block<S>& b, int chunk, int layer) {
  if (chunk >= 0 && b.lane < chunk_pages) copy_values(b, b.warp, chunk, b.lane, layer);
  __syncwarp();
}
// Of the first turn's chunks whose places are free when gate and up are multiplied, by the warps
// without a part in the FFN.
template <class S>
FORETOKEN_DEVICE void load_early_values(const block<S>& b, int layer) {
  using at = memory<S>;
  constexpr int each = ceil_div(at::chunks_at_once - at::values_late, other_warps);
  static_assert(each * chunk_pages <= 32);
  int warp = (b.warp - tile_warps) * each + b.lane / chunk_pages;
  if (warp >= at::values_in_g) warp += at::values_late;
  if (layer < b.job.model.layer_count && b.lane < each * chunk_pages && warp < at::chunks_at_once) {
    const int chunk = chunk_of(b, 0, warp);
    if (chunk >= 0) copy_values(b, warp, chunk, b.lane % chunk_pages, layer);
  }
  __syncwarp();
}

// Of those whose places are free when down is multiplied, by the last of the twelve warps: the
// first finish the product.
template <class S>
FORETOKEN_DEVICE void load_late_values(const block<S>& b, int layer) {
  using at = memory<S>;
  const int warp = at::values_in_g + tile_warps - 1 - b.warp;
  if (warp < at::values_beside_o && b.lane < chunk_pages) {
    const int chunk = chunk_of(b, 0, warp);
    if (chunk >= 0) copy_values(b, warp, chunk, b.lane, layer);
  }
  __syncwarp();
}

// The chunk a warp attends to.
struct chunk_work {
  int pair;
  int last;  // place of the row's position, from the chunk's first one
  FORETOKEN_DEVICE bool newest_here() const { return last < chunk_positions; }
  FORETOKEN_DEVICE int newest_page() const { return last / page_positions; }
  FORETOKEN_DEVICE int newest_token() const { return last % page_positions; }
};

// The key and value of this step's token take their place in the lines, wherever memory has them
// yet.
template <class S>
FORETOKEN_DEVICE void patch_key(const block<S>& b, lines& l, const chunk_work& work) {
  using at = memory<S>;
  const int token = work.newest_token();
  if (b.lane / 4 != token % 8) return;
  const char* const newest = b.base() + at::newest + work.pair * at::newest_bytes + b.lane % 4 * 8;
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    if (afresh(p) != work.newest_page()) continue;
    FORETOKEN_UNROLL
    for (int i = 0; i < steps_head; ++i) {
      const u32x2 k = *reinterpret_cast<const u32x2*>(newest + i * 32);
      u32x4& line = l.of[p][i];
      line.x = token < 8 ? k.x : line.x;
      line.y = token < 8 ? line.y : k.x;
      line.z = token < 8 ? k.y : line.z;
      line.w = token < 8 ? line.w : k.y;
    }
  }
}

template <class S>
FORETOKEN_DEVICE void patch_value(const block<S>& b, const chunk_work& work) {
  using at = memory<S>;
  const auto* const newest = reinterpret_cast<const std::uint16_t*>(
      b.base() + at::newest + work.pair * at::newest_bytes + head_dim * 2);
  auto* const page = reinterpret_cast<std::uint16_t*>(
      b.base() + at::values(b.warp) + work.newest_page() * (chunk_bytes / chunk_pages));
  for (int dim = b.lane; dim < head_dim; dim += 32) {
    page[value_offset(work.newest_token(), dim)] = newest[dim];
  }
  fence_stores_before_copies();
  __syncwarp();
}

// S of the chunk, masked: of page p [0], [1] token g of columns 2q, 2q + 1; [2], [3] token g + 8.
template <class S>
FORETOKEN_DEVICE void chunk_scores(const block<S>& b,
                                   float (&s)[chunk_pages][4],
                                   const lines& l,
                                   const chunk_work& work) {
  using at = memory<S>;
  const int g = b.lane / 4, q = b.lane % 4;
  const char* const query = b.base() + at::query + work.pair * at::query_bytes + g * 32 + q * 8;
  u32x2 column[steps_head];
  FORETOKEN_UNROLL
  for (int i = 0; i < steps_head; ++i) {
    column[i] = u32x2{0, 0};
    if (g < S::group) column[i] = *reinterpret_cast<const u32x2*>(query + i * S::group * 32);
  }
  FORETOKEN_UNROLL
  for (int i = 0; i < steps_head; ++i) {
    const std::uint32_t pair[2] = {column[i].x, column[i].y};
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      const u32x4& line = l.of[p][i];
      const std::uint32_t a[4] = {line.x, line.y, line.z, line.w};
      mma_in_place(s[p], a, pair);
    }
  }
  if (work.last >= chunk_positions - 1) return;
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (p * page_positions + g + 8 * (i / 2) > work.last) s[p][i] = lowest;
    }
  }
}

// From scores to weights, f16 as B fragments; m and l: largest score and sum of the weights in
// columns 2q, 2q + 1.
FORETOKEN_DEVICE void chunk_weights(float (&s)[chunk_pages][4],
                                    u32x2 (&weights)[chunk_pages],
                                    f32x2& m,
                                    f32x2& l) {
  m = {lowest, lowest};
  l = {0, 0};
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    m = {larger(m.x, larger(s[p][0], s[p][2])), larger(m.y, larger(s[p][1], s[p][3]))};
  }
  FORETOKEN_UNROLL
  for (int mask = 16; mask >= 4; mask /= 2) {
    m = {larger(m.x, shuffle_xor(m.x, mask)), larger(m.y, shuffle_xor(m.y, mask))};
  }
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      s[p][i] = s[p][i] > lowest ? natural_exp(s[p][i] - (i % 2 == 0 ? m.x : m.y)) : 0.0f;
    }
    l.x = (l.x + s[p][0]) + s[p][2];
    l.y = (l.y + s[p][1]) + s[p][3];
    weights[p] = {transpose_8x8(half_pair(s[p][0], s[p][1])),
                  transpose_8x8(half_pair(s[p][2], s[p][3]))};
  }
  FORETOKEN_UNROLL
  for (int mask = 16; mask >= 4; mask /= 2) {
    l.x += shuffle_xor(l.x, mask);
    l.y += shuffle_xor(l.y, mask);
  }
}

template <class S>
struct chunk_results {  // of a turn's items, in items_at_once places; chunk: place * 4 + number
  FORETOKEN_DEVICE static float* o(const block<S>& b, int chunk, int column) {
    return b.floats(memory<S>::input) + (chunk * S::group + column) * head_dim;
  }
  FORETOKEN_DEVICE static float* ml(const block<S>& b, int chunk, int column) {
    return b.floats(memory<S>::chunk_ml) + (chunk * 8 + column) * 2;
  }
};

// O = V^T p into shared memory.
template <class S>
FORETOKEN_DEVICE void chunk_values(const block<S>& b,
                                   int place,
                                   const u32x2 (&weights)[chunk_pages]) {
  const int g = b.lane / 4, q = b.lane % 4;
  const char* const from = b.base() + memory<S>::values(b.warp) + b.lane * 16;
  float* const to = chunk_results<S>::o(b, place, 2 * q) + g / 2 * 4 + g % 2;
  float o[steps_head][4] = {};
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    FORETOKEN_UNROLL
    for (int part = 0; part < steps_head; ++part) {
      const u32x4 line = *reinterpret_cast<const u32x4*>(from + (p * steps_head + part) * 512);
      const std::uint32_t a[4] = {line.x, line.y, line.z, line.w};
      const std::uint32_t pair[2] = {weights[p].x, weights[p].y};
      mma_in_place(o[part], a, pair);
    }
  }
  FORETOKEN_UNROLL
  for (int part = 0; part < steps_head; ++part) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (2 * q + i >= S::group) continue;
      to[i * head_dim + part * 16] = o[part][i];
      to[i * head_dim + part * 16 + 2] = o[part][2 + i];
    }
  }
}

// Folds the chunks of an item, 4 places a thread; the span goes to the block that merges it. `n`:
// the item's place; i: 0 .. 16 S::group - 1.
template <class S>
FORETOKEN_DEVICE void send_span(const block<S>& b, int n, int i, const work_item& item) {
  using at = memory<S>;
  const int column = i / 16, piece = i % 16;
  const int chunks = chunks_of(item);
  f32x2 part[span_chunks];
  f32x4 v[span_chunks];
  FORETOKEN_UNROLL
  for (int c = 0; c < span_chunks; ++c) {
    const int chunk = n * span_chunks + c;
    part[c] = {lowest, 0};
    if (c < chunks)
      part[c] = *reinterpret_cast<const f32x2*>(chunk_results<S>::ml(b, chunk, column));
    v[c] = *reinterpret_cast<const f32x4*>(chunk_results<S>::o(b, chunk, column) + piece * 4);
  }
  float m = lowest, l = 0;
  float o[4] = {0, 0, 0, 0};
  four_folds by;
  fold(m, l, part, by);
  FORETOKEN_UNROLL
  for (int c = 0; c < span_chunks; ++c) {
    o[0] = folded(o[0], by, c, v[c].x);
    o[1] = folded(o[1], by, c, v[c].y);
    o[2] = folded(o[2], by, c, v[c].z);
    o[3] = folded(o[3], by, c, v[c].w);
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

// The warp's chunk of a turn, whose results go to `place`; `l` holds its keys.
template <class S>
FORETOKEN_DEVICE void attend_chunk(
    const block<S>& b, lines& l, int chunk, int place, int values_phase) {
  const work_item item = b.table().item[chunk / span_chunks];
  __builtin_assume(item.first >= 0 && item.position >= 0 && item.pair >= 0);
  const chunk_work work{item.pair,
                        item.position - item.first - chunk % span_chunks * chunk_positions};
  __builtin_assume(work.last >= 0);
  if (work.newest_here()) patch_key(b, l, work);
  __syncwarp();
  float s[chunk_pages][4] = {};
  chunk_scores(b, s, l, work);
  u32x2 weights[chunk_pages];
  f32x2 m, sum;
  chunk_weights(s, weights, m, sum);
  if (b.lane < 4) {
    *reinterpret_cast<f32x4*>(chunk_results<S>::ml(b, place, 2 * b.lane)) =
        f32x4{m.x, sum.x, m.y, sum.y};
  }
  barrier_wait(b.weight_barrier(b.warp, values_arrive), values_phase);
  if (work.newest_here()) patch_value(b, work);
  chunk_values(b, place, weights);
}

// All items of the block in one layer, a turn after the other; `l` holds the keys of the warp's
// chunk of the first turn, whose values are on their way. values_phase: of their barrier.
template <class S>
FORETOKEN_DEVICE void attend(const block<S>& b, lines& l, int layer, int& values_phase) {
  const tables& t = b.table();
  FORETOKEN_UNROLL_BY(1)
  for (int turn = 0; turn < t.turns; ++turn) {
    const int chunk = chunk_of(b, turn), first = t.first_item[turn];
    if (chunk >= 0) {
      attend_chunk(b, l, chunk, chunk - first * span_chunks, values_phase);
      values_phase ^= 1;
    }
    if (turn + 1 == t.turns) barrier_arrive(b.handed(attention_read));
    part_sync<threads>(meet_chunks);
    const int n = b.thread / (S::group * 16);
    if (first + n < t.first_item[turn + 1]) {
      send_span(b, n, b.thread % (S::group * 16), t.item[first + n]);
    }
    __syncwarp();
    if (turn + 1 == t.turns) break;
    load_values(b, chunk_of(b, turn + 1), layer);
    load_keys<0, chunk_pages>(b, l, chunk_of(b, turn + 1), layer);
    part_sync<threads>(meet_folded);
  }
}

}  // namespace foretoken::gpu::cluster
