// SPDX-License-Identifier: Apache-2.0
// attention.cu for tiles of 64 or 128 query columns: long prompts. The same bits.
//
// A block: one KV head of one tile. A team of warps takes a span of 256 positions: its chunks come
// through shared memory once for all columns, one ahead, each warp folds them for its own columns
// in registers. The teams' spans fold into the result in order: each team waits for the one before
// it, which hands the result over in shared memory.
//   S[column][token] = Q K^T    A = queries, B = keys
//   O[d][column] = V^T P        A = values as stored, B = P as the scores' registers stand
// In the first the operands are attention.cu's, exchanged: the same products, the same sums over k,
// and nothing has to be transposed. Bytes: 256 head_dim a chunk and tile. For 32 columns and a
// chunk of head_dim 64 a warp issues 980 instructions (9.0); 128 of them are products, which keep
// the matrix unit busy for 780 cycles.

#include "gpu/attention_large_chunk.cuh"
#include "gpu/attention_tiles.hpp"
#include "gpu/launch.cuh"

namespace foretoken::gpu {
namespace {

// A thread's part of the result so far, as column_sums has it: f32x4 of o, then of m, m, l, l a
// strip.
template <class Tile>
FORETOKEN_DEVICE f32x4& held(int part) {
  auto* const all = reinterpret_cast<f32x4*>(shared_memory() + Tile::result_at);
  return all[part * Tile::team_threads + thread_index() % Tile::team_threads];
}
template <class Tile>
FORETOKEN_DEVICE f32x4& held_scale(int strip) {
  return held<Tile>(Tile::strips * 2 * Tile::steps + strip);
}

template <class Tile>
FORETOKEN_DEVICE void fold_result(const column_sums<Tile>& span, bool is_first) {
  FORETOKEN_UNROLL
  for (int strip = 0; strip < Tile::strips; ++strip) {
    f32x4& scale = held_scale<Tile>(strip);
    const f32x4 before = is_first ? f32x4{lowest, lowest, 0, 0} : scale;
    float m[2] = {before.x, before.y}, l[2] = {before.z, before.w};
    FORETOKEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const fold_factors by = fold_seen(m[half], l[half], span.m[strip][half], span.l[strip][half]);
      FORETOKEN_UNROLL
      for (int d = 0; d < Tile::steps; ++d) {
        f32x4& sum = held<Tile>((strip * 2 + half) * Tile::steps + d);
        const f32x4 old = is_first ? f32x4{0, 0, 0, 0} : sum;
        float o[4] = {old.x, old.y, old.z, old.w};
        by.fold(o, span.o[strip][half][d]);
        sum = f32x4{o[0], o[1], o[2], o[3]};
      }
    }
    scale = f32x4{m[0], m[1], l[0], l[1]};
  }
}

// Each team writes a part of the dimensions.
template <class Tile>
FORETOKEN_DEVICE void write_result(const column_order& columns) {
  const attention_arguments& given = columns.job.given;
  const int lane = thread_index() % 32;
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < 2 * Tile::strips; ++i) {
    const f32x4 scale = held_scale<Tile>(i / 2);
    const f32x2 l = of_columns(i % 2 == 0 ? scale.z : scale.w);
    const int column = column_of<Tile>(i / 2, i % 2) - lane / 4 + lane % 4 * 2;
    FORETOKEN_UNROLL
    for (int j = 0; j < 2; ++j) {
      if (!columns.has(column + j)) continue;
      std::uint16_t* const to =
          given.work.attended +
          columns.offset(column + j, padded_columns(given.heads * Tile::head_dim), Tile::head_dim);
      for (int d = thread_index() / Tile::team_threads; d < Tile::steps; d += Tile::teams) {
        const f32x4 o = held<Tile>(i * Tile::steps + d);
        to[16 * d + lane / 4] = product_input((j == 0 ? o.x : o.y) / (j == 0 ? l.x : l.y));
        to[16 * d + lane / 4 + 8] = product_input((j == 0 ? o.z : o.w) / (j == 0 ? l.x : l.y));
      }
    }
  }
}

template <class Tile>
FORETOKEN_KERNEL(Tile::threads, 1)
attend_large(const large_job job) {
  const column_order columns(job);
  if (columns.tile.count < 1) {
    wait_for_predecessor();
    release_successor();
    return;
  }
  const int columns_used = columns.tile.count * job.group;
  chunk_feed<Tile> feed(job.given, columns.tile, columns.position(columns_used - 1));
  const int team = thread_index() / Tile::team_threads;
  using barriers = team_barriers<Tile>;
  barriers::init();
  // Positions of the warp's first and last column that exist.
  const int warp_first = thread_index() % Tile::team_threads / 32 * Tile::warp_columns;
  const int warp_last = warp_first + Tile::warp_columns - 1;
  const int all_see = columns.position(warp_first);
  const int end =
      all_see < 0 ? -1 : columns.position(warp_last < columns_used ? warp_last : columns_used - 1);
  FORETOKEN_UNROLL
  for (int i = 0; i < 2 * Tile::strips; ++i) {
    position_of<Tile>(i / 2, i % 2) = columns.position(column_of<Tile>(i / 2, i % 2));
  }
  wait_for_predecessor();
  release_successor();
  feed.start();
  query_fragments<Tile> q;
  q.load(columns);
  // Queries are there, and barriers.
  if constexpr (Tile::shares_queries || barriers::there) block_sync();
  column_sums<Tile> span;
  FORETOKEN_UNROLL_BY(1)
  for (int number = team; number * span_chunks < feed.chunks; number += Tile::teams) {
    const int span_end = (number + 1) * span_chunks;
    const bool is_last = span_end >= feed.chunks;
    span.clear();
    FORETOKEN_UNROLL_BY(1)
    for (int chunk = number * span_chunks; chunk < (is_last ? feed.chunks : span_end); ++chunk) {
      copy_async_wait<0>();
      part_sync<Tile::team_threads>(1 + team);  // the chunk is there, the other place is free
      feed.start();
      const int first = chunk * chunk_positions;
      if (first > end) continue;
      large_chunk<Tile>(feed.place(chunk), job.same, first, all_see, q, span);
    }
    barriers::take(number);
    fold_result<Tile>(span, number == 0);
    if (!is_last) barriers::hand_over(number);
  }
  barriers::meet();
  write_result<Tile>(column_order(job));
}

// Head_dim 64: eight warps of 32 columns (200 registers and more); 128: of 16.
template <int HeadDim, int Columns>
struct large_tile_of;
template <>
struct large_tile_of<64, 64> : large_tile<64, 4, 2, 2> {};
template <>
struct large_tile_of<64, 128> : large_tile<64, 2, 4, 2> {};
template <>
struct large_tile_of<128, 64> : large_tile<128, 2, 4, 1> {};
template <>
struct large_tile_of<128, 128> : large_tile<128, 1, 8, 1> {};

template <int HeadDim, int Columns>
status launch_tile(const launch_context& on, const large_job& job) {
  using tile = large_tile_of<HeadDim, Columns>;
  static_assert(tile::columns == Columns && tile::bytes == large_tile_bytes(HeadDim, Columns));
  return launch(on, attend_large<tile>, {job.given.kv_heads, job.given.tile_count, 1},
                tile::threads, tile::bytes, job);
}

}  // namespace

status launch_large_attention(const launch_context& on, const attention_arguments& given) {
  if (given.tile_count < 1) return {};
  if (!has_large_tiles(on, given, given.columns)) {
    return unsupported("attention", "no large tiles for this shape");
  }
  large_job job{given};
  job.group = given.heads / given.kv_heads;
  job.inverse = (65536 + job.group - 1) / job.group;
  switch (given.head_dim * 256 + given.columns) {
    case 64 * 256 + 64: return launch_tile<64, 64>(on, job);
    case 64 * 256 + 128: return launch_tile<64, 128>(on, job);
    case 128 * 256 + 64: return launch_tile<128, 64>(on, job);
    case 128 * 256 + 128: return launch_tile<128, 128>(on, job);
    default: break;
  }
  return unsupported("attention", "no large tiles for this shape");
}

}  // namespace foretoken::gpu
