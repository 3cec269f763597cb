// SPDX-License-Identifier: Apache-2.0
// out = softmax(softcap(q k)) v over paged keys and values, for decode and prefill rows alike.
//
// A block: 512 positions (two spans), one KV head, one tile of up to 8 query columns (the heads of
// a group, times consecutive rows of one sequence); where one chunk holds all positions, eight
// tiles instead. A warp: one chunk of 64 positions, 4 pages.
//   S[token][column] = K q        A = keys as stored, B = queries, head_dim / 16 k-steps
//   m = max S, p = exp(S - m), l = sum p (float), P = f16(p)
//   O[d][column] = V^T P          A = values as stored, B = P turned by an 8 x 8 transpose, 4
//   k-steps
// Chunks fold ascending into the span, spans fold ascending into the result (fold below); the last
// block of a tile does the latter, through memory, where two spans are not all. Nothing but a
// query's own position decides its bits. Bytes: 64 head_dim a chunk, column tile and KV head, for
// keys and values each, x 2; loads of a chunk are all under way at once (head_dim 64: 16 KB a
// warp).

#include "gpu/arrival.cuh"
#include "gpu/attention_chunk.cuh"
#include "gpu/attention_tiles.hpp"
#include "gpu/launch.cuh"

namespace foretoken::gpu {
namespace {

FORETOKEN_DEVICE std::uint16_t* result_row(const attention_job& job,
                                           const query& one,
                                           int head_dim) {
  return job.given.work.attended +
         wide(one.row) * wide(padded_columns(job.given.heads * head_dim)) +
         wide(one.head * head_dim);
}

// Spans of one tile and KV head: [span][8 columns][HeadDim + 2], o then m and l.
template <int HeadDim>
FORETOKEN_DEVICE float* partial_of(const attention_job& job, int span, int column) {
  const std::size_t owner =
      wide(block_z()) * wide(job.given.kv_heads * job.groups) + wide(block_y());
  return job.given.work.partial +
         ((owner * wide(job.given.spans_max) + wide(span)) * 8 + wide(column)) * (HeadDim + 2);
}

// What one of Threads threads gathers: dimensions d = thread / 8 + Threads / 8 i of column thread
// % 8.
template <int HeadDim, int Threads = attention_threads>
struct gathered {
  static constexpr int rows = Threads / 8;
  static constexpr int each = (HeadDim + rows - 1) / rows;
  float m = lowest, l = 0;
  float o[each] = {};

  FORETOKEN_DEVICE static int dimension(int i) { return thread_index() % Threads / 8 + i * rows; }
  // value(d): the next part's sums
  template <class Value>
  FORETOKEN_DEVICE void add(float m_next, float l_next, Value value) {
    if (!(l_next > 0)) return;  // nothing of it in this query's window
    float keep, take;
    fold(m, l, m_next, l_next, keep, take);
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      if (dimension(i) < HeadDim) {
        o[i] = fused_multiply_add(o[i], keep, value(i, dimension(i)) * take);
      }
    }
  }
  FORETOKEN_DEVICE void finish(const attention_job& job, const query& one) const {
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      const int d = dimension(i);
      if (d < HeadDim && one.row >= 0) result_row(job, one, HeadDim)[d] = product_input(o[i] / l);
    }
  }
};

template <int HeadDim>
FORETOKEN_DEVICE void merge_spans(const attention_job& job, const query& one, int first, int last) {
  gathered<HeadDim> all;
  FORETOKEN_UNROLL_BY(1)
  for (int span = first; span <= last; ++span) {
    const float* from = partial_of<HeadDim>(job, span, thread_index() % 8);
    all.add(load_shared_device(from + HeadDim), load_shared_device(from + HeadDim + 1),
            [&](int, int d) { return load_shared_device(from + d); });
  }
  all.finish(job, one);
}

// Folds the chunks [first, end) of span `s` of the block.
template <int HeadDim>
FORETOKEN_DEVICE gathered<HeadDim> fold_span(int s, int first, int end) {
  const chunk_results<HeadDim> from;
  const int column = thread_index() % 8;
  gathered<HeadDim> span;
  FORETOKEN_UNROLL_BY(2)
  for (int i = 0; i < span_chunks; ++i) {
    const int chunk = s * span_chunks + i;
    if (chunk < first || chunk >= end) continue;
    span.add(from.m(chunk)[column], from.l(chunk)[column],
             [&](int, int d) { return from.o(chunk)[d * 8 + column]; });
  }
  return span;
}

// The chunks of one tile that this block has, [first, end), from the step's inputs alone.
struct tile_range {
  attention_tile tile;
  int first_position = 0, oldest = 0, last = -1;  // positions
  int first_block = 0, last_block = -1;
  int first_chunk = 0, end_chunk = 0;
  FORETOKEN_DEVICE bool idle() const { return first_chunk >= end_chunk; }
  FORETOKEN_DEVICE bool only() const { return first_block == last_block; }
};

FORETOKEN_DEVICE tile_range range_of(const attention_arguments& given, int number) {
  tile_range out;
  if (number < given.tile_count) out.tile = given.tiles[number];
  if (out.tile.count < 1) return out;
  out.first_position = given.rows.position[out.tile.first];
  out.last = out.first_position + out.tile.count - 1;
  if (given.window > 0 && out.first_position >= given.window) {
    out.oldest = out.first_position - given.window + 1;
  }
  out.first_block = out.oldest / block_positions;
  out.last_block = out.last / block_positions;
  if (block_x() < out.first_block || block_x() > out.last_block) return out;
  if (block_x() == out.first_block) out.first_chunk = out.oldest / chunk_positions % block_chunks;
  out.end_chunk =
      block_x() == out.last_block ? out.last / chunk_positions % block_chunks + 1 : block_chunks;
  return out;
}

// The spans of one tile: into the result when they are all, else into memory.
template <int HeadDim>
FORETOKEN_DEVICE void finish_tile(const attention_job& job,
                                  const query& one,
                                  const tile_range& range) {
  gathered<HeadDim> all;
  const int first = range.first_chunk;
  const int end = range.end_chunk;
  FORETOKEN_UNROLL_BY(1)
  for (int s = 0; s < block_spans; ++s) {
    const int from = first > s * span_chunks ? first : s * span_chunks;
    const int to = end < (s + 1) * span_chunks ? end : (s + 1) * span_chunks;
    if (from >= to) continue;
    const gathered<HeadDim> span = fold_span<HeadDim>(s, from, to);
    if (range.only()) {
      all.add(span.m, span.l, [&](int i, int) { return span.o[i]; });
      continue;
    }
    float* const partial =
        partial_of<HeadDim>(job, block_x() * block_spans + s, thread_index() % 8);
    FORETOKEN_UNROLL
    for (int i = 0; i < span.each; ++i) {
      if (span.dimension(i) < HeadDim) partial[span.dimension(i)] = span.o[i];
    }
    if (thread_index() < 8) {
      partial[HeadDim] = span.m;
      partial[HeadDim + 1] = span.l;
    }
  }
  if (range.only()) all.finish(job, one);
}

template <int HeadDim, bool Capped, kv_form Form>
FORETOKEN_KERNEL(attention_threads, HeadDim <= 64 ? 2 : 1)
attend(const attention_job job) {
  const attention_arguments& given = job.given;
  const tile_range range = range_of(given, block_z());
  const int chunk = thread_index() / 32;
  const bool has_chunk = chunk >= range.first_chunk && chunk < range.end_chunk;
  chunk_place at;
  if (has_chunk) {
    locate(job, range.tile, range.first_position,
           block_x() * block_positions + chunk * chunk_positions, at);
    if (job.prefetch) prefetch_chunk(given, at);
  }
  wait_for_predecessor();
  release_successor();
  if (range.idle()) return;
  if (has_chunk) attend_chunk<HeadDim, Capped, Form>(job, at, chunk);
  block_sync();
  const query one = column_query(job, range.tile, range.first_position, thread_index() % 8);
  finish_tile<HeadDim>(job, one, range);
  if (range.only()) return;
  std::uint32_t* counter =
      given.work.arrived + wide(block_z()) * wide(given.kv_heads * job.groups) + wide(block_y());
  if (last_to_arrive(counter, range.last_block - range.first_block + 1)) {
    merge_spans<HeadDim>(job, one, range.oldest / attention_span, range.last / attention_span);
  }
}

// No position is beyond the first chunk: a warp does a tile by itself.
template <int HeadDim, bool Capped, kv_form Form>
FORETOKEN_KERNEL(attention_threads, HeadDim <= 64 ? 2 : 1)
attend_short(const attention_job job) {
  const int slot = thread_index() / 32;
  const tile_range range = range_of(job.given, block_z() * block_chunks + slot);
  chunk_place at;
  if (!range.idle()) locate(job, range.tile, range.first_position, 0, at);
  wait_for_predecessor();
  release_successor();
  if (range.idle()) return;
  attend_chunk<HeadDim, Capped, Form>(job, at, slot);
  warp_sync();
  const chunk_results<HeadDim> from;
  const int column = thread_index() % 8;
  const query one = column_query(job, range.tile, range.first_position, column);
  gathered<HeadDim, 32> span, all;
  span.add(from.m(slot)[column], from.l(slot)[column],
           [&](int, int d) { return from.o(slot)[d * 8 + column]; });
  all.add(span.m, span.l, [&](int i, int) { return span.o[i]; });
  all.finish(job, one);
}

template <int HeadDim, bool Capped, kv_form Form>
status launch_kind(const launch_context& on, const attention_job& job) {
  const attention_arguments& given = job.given;
  const int heads = given.kv_heads * job.groups;
  constexpr int bytes = chunk_results<HeadDim>::bytes();
  // Worth it only when there are more blocks than run at once.
  const bool many = heads * given.tile_count > 2 * on.multiprocessors;
  if constexpr (HeadDim <= 128) {
    if (given.positions_max > 0 && given.positions_max <= chunk_positions && many) {
      const int blocks = (given.tile_count + block_chunks - 1) / block_chunks;
      return launch(on, attend_short<HeadDim, Capped, Form>, {1, heads, blocks}, attention_threads,
                    bytes, job);
    }
  }
  const launch_grid grid{(given.spans_max + block_spans - 1) / block_spans, heads,
                         given.tile_count};
  attention_job one = job;
  one.prefetch = grid.x * grid.y * grid.z <= on.multiprocessors * 3 / 8;
  return launch(on, attend<HeadDim, Capped, Form>, grid, attention_threads, bytes, one);
}

template <int HeadDim, kv_form Form>
status launch_form(const launch_context& on, const attention_job& job) {
  return job.given.softcap > 0 ? launch_kind<HeadDim, true, Form>(on, job)
                               : launch_kind<HeadDim, false, Form>(on, job);
}
template <int HeadDim>
status launch_head_dim(const launch_context& on, const attention_job& job) {
  return job.given.form == kv_form::int8 ? launch_form<HeadDim, kv_form::int8>(on, job)
                                         : launch_form<HeadDim, kv_form::f16>(on, job);
}

}  // namespace

status launch_attention(const launch_context& on, const attention_arguments& given) {
  if (given.heads % given.kv_heads != 0) return unsupported("heads", "not whole groups");
  if (given.columns != query_columns) return launch_large_attention(on, given);
  attention_job job{given, 1, 0, given.heads / given.kv_heads, 0};
  job.groups = (job.heads_per_kv + query_columns - 1) / query_columns;
  job.group_heads = job.heads_per_kv < query_columns ? job.heads_per_kv : query_columns;
  job.group_inverse = (256 + job.group_heads - 1) / job.group_heads;
  if (given.tile_count < 1) return {};
  switch (given.head_dim) {
    case 16: return launch_head_dim<16>(on, job);
    case 32: return launch_head_dim<32>(on, job);
    case 48: return launch_head_dim<48>(on, job);
    case 64: return launch_head_dim<64>(on, job);
    case 80: return launch_head_dim<80>(on, job);
    case 96: return launch_head_dim<96>(on, job);
    case 112: return launch_head_dim<112>(on, job);
    case 128: return launch_head_dim<128>(on, job);
    case 256: return launch_head_dim<256>(on, job);
    default: break;
  }
  return unsupported("head_dim", "heads of " + std::to_string(given.head_dim) + " values");
}

}  // namespace foretoken::gpu
