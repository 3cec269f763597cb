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

#include "gpu/launch.cuh"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {
namespace {

constexpr int chunk_positions = attention_chunk;
constexpr int chunk_pages = chunk_positions / 16;
constexpr int span_chunks = attention_span / chunk_positions;
constexpr int block_spans = 2;
constexpr int block_chunks = block_spans * span_chunks;
constexpr int block_positions = block_spans * attention_span;
constexpr int attention_threads = block_chunks * 32;
constexpr float lowest = -3.0e38f;  // stands for minus infinity; no score is lower

struct attention_job {
  attention_arguments given;
  int groups;       // blocks a KV head: groups of up to 8 query heads
  int group_heads;  // query heads of one such group
  int heads_per_kv;
  int group_inverse;  // ceil(256 / group_heads)
};

// One query column of a tile: its row, head and position; row < 0: none.
struct query {
  int row, head, position;
};

FORETOKEN_DEVICE query column_query(const attention_job& job,
                                    const attention_tile& tile,
                                    int first_position,
                                    int column) {
  const int kv_head = block_y() / job.groups;
  const int i = column * job.group_inverse >> 8;  // column / group_heads
  const int in_group = block_y() % job.groups * job.group_heads + column - i * job.group_heads;
  if (i >= tile.count || in_group >= job.heads_per_kv) return {-1, 0, -1};
  return {tile.first + i, kv_head * job.heads_per_kv + in_group, first_position + i};
}

// What a chunk, a span or a query has seen so far: value = o / l, in units of exp(m).
FORETOKEN_DEVICE void fold(
    float& m, float& l, float m_next, float l_next, float& keep, float& take) {
  const float m_new = larger(m, m_next);
  keep = natural_exp(m - m_new);
  take = natural_exp(m_next - m_new);
  l = fused_multiply_add(l, keep, l_next * take);
  m = m_new;
}

// Shared memory: results of the chunks.
template <int HeadDim>
struct chunk_results {
  FORETOKEN_DEVICE float* o(int chunk) const {  // [HeadDim][8]
    return reinterpret_cast<float*>(shared_memory()) + chunk * HeadDim * 8;
  }
  FORETOKEN_DEVICE float* m(int chunk) const { return o(block_chunks) + chunk * 16; }  // [8]
  FORETOKEN_DEVICE float* l(int chunk) const { return m(chunk) + 8; }                  // [8]
  static constexpr int bytes() { return block_chunks * (HeadDim * 8 + 16) * 4; }
};

// Masks, then turns scores into weights; m and l are those of the lane's two columns.
template <bool Capped>
FORETOKEN_DEVICE void chunk_softmax(const attention_arguments& given,
                                    float (&s)[chunk_pages][4],
                                    int first,
                                    const query (&columns)[2],
                                    float (&m)[2],
                                    float (&l)[2]) {
  const int token = thread_index() % 32 / 4;
  m[0] = m[1] = lowest;
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int position = first + 16 * p + token + 8 * (i / 2);
      const query& one = columns[i % 2];
      const bool seen =
          position <= one.position && (given.window == 0 || position > one.position - given.window);
      if (Capped) s[p][i] = soft_cap(s[p][i], given.softcap);
      s[p][i] = seen ? s[p][i] : lowest;
      m[i % 2] = larger(m[i % 2], s[p][i]);
    }
  }
  FORETOKEN_UNROLL
  for (int c = 0; c < 2; ++c) {
    FORETOKEN_UNROLL
    for (int mask = 16; mask >= 4; mask /= 2) m[c] = larger(m[c], shuffle_xor(m[c], mask));
    l[c] = 0;
  }
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      s[p][i] = s[p][i] > lowest ? natural_exp(s[p][i] - m[i % 2]) : 0.0f;
      l[i % 2] += s[p][i];
    }
  }
  FORETOKEN_UNROLL
  for (int c = 0; c < 2; ++c) {
    FORETOKEN_UNROLL
    for (int mask = 16; mask >= 4; mask /= 2) l[c] += shuffle_xor(l[c], mask);
  }
}

FORETOKEN_DEVICE void load_fragment(std::uint32_t (&a)[4], const std::uint16_t* at) {
  const u32x4 v = *reinterpret_cast<const u32x4*>(at);
  a[0] = v.x;
  a[1] = v.y;
  a[2] = v.z;
  a[3] = v.w;
}

// Where one warp's chunk stands: known from the step's inputs alone.
struct chunk_place {
  int first = 0;                                // its first position
  const std::uint16_t* page[chunk_pages] = {};  // the lane's part of the keys; null: not touched
  query mine, columns[2];                       // of the query fragment, and of the lane's scores
};

FORETOKEN_DEVICE void locate(const attention_job& job,
                             const attention_tile& tile,
                             int first_position,
                             int first,
                             chunk_place& out) {
  const attention_arguments& given = job.given;
  const int lane = thread_index() % 32;
  const std::int32_t* pages =
      given.rows.pages + wide(given.rows.table[tile.first]) * wide(given.rows.table_stride);
  out.first = first;
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    out.page[p] = nullptr;
    if (first + 16 * p >= first_position + tile.count) continue;
    out.page[p] =
        given.kv +
        (wide(pages[first / 16 + p]) * wide(given.kv_heads) + wide(block_y() / job.groups)) *
            wide(2 * 16 * given.head_dim) +
        lane * 8;
  }
  out.mine = column_query(job, tile, first_position, lane / 4);
  out.columns[0] = column_query(job, tile, first_position, lane % 4 * 2);
  out.columns[1] = column_query(job, tile, first_position, lane % 4 * 2 + 1);
}

template <int HeadDim>
FORETOKEN_DEVICE void chunk_scores(const attention_job& job,
                                   const chunk_place& at,
                                   float (&s)[chunk_pages][4]) {
  constexpr int steps = HeadDim / 16;
  [[maybe_unused]] constexpr int at_once = HeadDim > 128 ? 4 : steps;  // more would spill
  const query& mine = at.mine;
  const std::uint16_t* q =
      job.given.work.q +
      (wide(mine.row < 0 ? 0 : mine.row) * wide(job.given.heads) + wide(mine.head)) * HeadDim +
      thread_index() % 4 * 2;
  FORETOKEN_UNROLL_BY(at_once)
  for (int k = 0; k < steps; ++k) {
    std::uint32_t b[2] = {0, 0};
    if (mine.row >= 0) {
      b[0] = *reinterpret_cast<const std::uint32_t*>(q + 16 * k);
      b[1] = *reinterpret_cast<const std::uint32_t*>(q + 16 * k + 8);
    }
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      std::uint32_t a[4] = {0, 0, 0, 0};
      if (at.page[p] != nullptr) load_fragment(a, at.page[p] + 256 * k);
      mma(s[p], a, b);
    }
  }
}

// One chunk by one warp. Pages beyond the last position count as zeros and are not touched.
template <int HeadDim, bool Capped>
FORETOKEN_DEVICE void attend_chunk(const attention_job& job, const chunk_place& at, int slot) {
  constexpr int steps = HeadDim / 16;
  constexpr bool early_values = HeadDim <= 64;  // loaded before the softmax: 64 registers
  constexpr int held = early_values ? steps : 1;
  [[maybe_unused]] constexpr int at_once = HeadDim > 128 ? 4 : steps;
  const int lane = thread_index() % 32;
  float s[chunk_pages][4] = {};
  std::uint32_t v[held][chunk_pages][4];
  const auto load_values = [&](int d, std::uint32_t(&to)[chunk_pages][4]) {
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      FORETOKEN_UNROLL
      for (int r = 0; r < 4; ++r) to[p][r] = 0;
      if (at.page[p] != nullptr) load_fragment(to[p], at.page[p] + 16 * HeadDim + 256 * d);
    }
  };
  chunk_scores<HeadDim>(job, at, s);
  if constexpr (early_values) {
    FORETOKEN_UNROLL
    for (int d = 0; d < steps; ++d) load_values(d, v[d]);
  }
  float m[2], l[2];
  chunk_softmax<Capped>(job.given, s, at.first, at.columns, m, l);
  std::uint32_t weights[chunk_pages][2];
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    weights[p][0] = transpose_8x8(half_pair(s[p][0], s[p][1]));
    weights[p][1] = transpose_8x8(half_pair(s[p][2], s[p][3]));
  }
  const chunk_results<HeadDim> out;
  FORETOKEN_UNROLL_BY(at_once)
  for (int d = 0; d < steps; ++d) {
    if constexpr (!early_values) load_values(d, v[0]);
    float o[4] = {0, 0, 0, 0};
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) mma(o, v[early_values ? d : 0][p], weights[p]);
    float* to = out.o(slot) + (16 * d + lane / 4) * 8 + lane % 4 * 2;
    *reinterpret_cast<f32x2*>(to) = f32x2{o[0], o[1]};
    *reinterpret_cast<f32x2*>(to + 64) = f32x2{o[2], o[3]};
  }
  if (lane < 4) {
    *reinterpret_cast<f32x2*>(out.m(slot) + lane * 2) = f32x2{m[0], m[1]};
    *reinterpret_cast<f32x2*>(out.l(slot) + lane * 2) = f32x2{l[0], l[1]};
  }
}

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

// True in every thread of the block that is the last of `count` to come here.
FORETOKEN_DEVICE bool last_to_arrive(std::uint32_t* counter, int count) {
  auto* const flag = reinterpret_cast<std::uint32_t*>(shared_memory());
  device_fence();
  block_sync();
  if (thread_index() == 0) {
    flag[0] = atomic_add(counter, 1) + 1 == static_cast<std::uint32_t>(count) ? 1u : 0u;
    if (flag[0] != 0) *counter = 0;
  }
  block_sync();
  device_fence();
  return flag[0] != 0;
}

template <int HeadDim, bool Capped>
FORETOKEN_KERNEL(attention_threads, HeadDim <= 64 ? 2 : 1)
attend(const attention_job job) {
  const attention_arguments& given = job.given;
  release_successor();
  const tile_range range = range_of(given, block_z());
  const int chunk = thread_index() / 32;
  const bool has_chunk = chunk >= range.first_chunk && chunk < range.end_chunk;
  chunk_place at;
  if (has_chunk) {
    locate(job, range.tile, range.first_position,
           block_x() * block_positions + chunk * chunk_positions, at);
  }
  wait_for_predecessor();
  if (range.idle()) return;
  if (has_chunk) attend_chunk<HeadDim, Capped>(job, at, chunk);
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
template <int HeadDim, bool Capped>
FORETOKEN_KERNEL(attention_threads, HeadDim <= 64 ? 2 : 1)
attend_short(const attention_job job) {
  release_successor();
  const int slot = thread_index() / 32;
  const tile_range range = range_of(job.given, block_z() * block_chunks + slot);
  chunk_place at;
  if (!range.idle()) locate(job, range.tile, range.first_position, 0, at);
  wait_for_predecessor();
  if (range.idle()) return;
  attend_chunk<HeadDim, Capped>(job, at, slot);
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

template <int HeadDim, bool Capped>
status launch_kind(const launch_context& on, const attention_job& job) {
  const attention_arguments& given = job.given;
  const int heads = given.kv_heads * job.groups;
  constexpr int bytes = chunk_results<HeadDim>::bytes();
  // Worth it only when there are more blocks than run at once.
  const bool many = heads * given.tile_count > 2 * on.multiprocessors;
  if constexpr (HeadDim <= 128) {
    if (given.positions_max > 0 && given.positions_max <= chunk_positions && many) {
      const int blocks = (given.tile_count + block_chunks - 1) / block_chunks;
      return launch(on, attend_short<HeadDim, Capped>, {1, heads, blocks}, attention_threads, bytes,
                    job);
    }
  }
  const launch_grid grid{(given.spans_max + block_spans - 1) / block_spans, heads,
                         given.tile_count};
  return launch(on, attend<HeadDim, Capped>, grid, attention_threads, bytes, job);
}

template <int HeadDim>
status launch_head_dim(const launch_context& on, const attention_job& job) {
  return job.given.softcap > 0 ? launch_kind<HeadDim, true>(on, job)
                               : launch_kind<HeadDim, false>(on, job);
}

}  // namespace

status launch_attention(const launch_context& on, const attention_arguments& given) {
  if (given.heads % given.kv_heads != 0) return unsupported("heads", "not whole groups");
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
