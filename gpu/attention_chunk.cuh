// SPDX-License-Identifier: Apache-2.0
#pragma once
// One warp's part of attention: a chunk of 64 positions of one tile of query columns. What a chunk
// is and how it counts is said in attention.cu.

#include "gpu/kv_page.cuh"

namespace foretoken::gpu {

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
  // Few blocks: their time is the latency of memory. SmolLM2 at 1, 8, 16 rows (3, 24, 48 blocks): a
  // step of 494 us takes 466, 598 584; Llama-1B at 8 (64): 1,260 1,270 (H100, 2026-11-24).
  bool prefetch = false;
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
  const float less = natural_exp(smaller(m, m_next) - m_new);  // the larger one's is exp(0) = 1
  keep = m_next > m ? less : 1.0f;
  take = m_next > m ? 1.0f : less;
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

// Where one warp's chunk stands: known from the step's inputs alone.
struct chunk_place {
  int first = 0;                                // its first position
  const std::uint16_t* page[chunk_pages] = {};  // the head's part of it; null: not touched
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
    out.page[p] = given.kv + (wide(pages[first / 16 + p]) * wide(given.kv_heads) +
                              wide(block_y() / job.groups)) *
                                 kv_head_values(given.form, given.head_dim);
  }
  out.mine = column_query(job, tile, first_position, lane / 4);
  out.columns[0] = column_query(job, tile, first_position, lane % 4 * 2);
  out.columns[1] = column_query(job, tile, first_position, lane % 4 * 2 + 1);
}

// Asks for the chunk's keys and values while the kernel before still computes the queries. The page
// of this step's token may be written meanwhile: nothing is read here.
FORETOKEN_DEVICE void prefetch_chunk(const attention_arguments& given, const chunk_place& at) {
  const int bytes = static_cast<int>(kv_head_values(given.form, given.head_dim)) * 2;
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    if (at.page[p] == nullptr) continue;
    const auto* const from = reinterpret_cast<const unsigned char*>(at.page[p]);
    FORETOKEN_UNROLL_BY(1)
    for (int i = thread_index() % 32 * 128; i < bytes; i += 32 * 128) prefetch_line(from + i);
  }
}

template <int HeadDim, kv_form Form>
FORETOKEN_DEVICE void chunk_scores(const attention_job& job,
                                   const chunk_place& at,
                                   const kv_scales<Form> (&scales)[chunk_pages],
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
      if (at.page[p] != nullptr) {
        kv_fragment<Form> keys;
        keys.load(at.page[p] + keys.size * k, thread_index() % 32);
        keys.halves(a);
      }
      mma(s[p], a, b);
    }
  }
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) s[p][i] = scales[p].score(s[p][i], i / 2);
  }
}

// One chunk by one warp. Pages beyond the last position count as zeros and are not touched.
template <int HeadDim, bool Capped, kv_form Form>
FORETOKEN_DEVICE void attend_chunk(const attention_job& job, const chunk_place& at, int slot) {
  constexpr int steps = HeadDim / 16;
  constexpr bool early_values = HeadDim <= 64;  // loaded before the softmax: 64 registers
  constexpr int held = early_values ? steps : 1;
  [[maybe_unused]] constexpr int at_once = HeadDim > 128 ? 4 : steps;
  const int lane = thread_index() % 32;
  float s[chunk_pages][4] = {};
  kv_scales<Form> scales[chunk_pages];
  FORETOKEN_UNROLL
  for (int p = 0; p < chunk_pages; ++p) {
    if (at.page[p] != nullptr) scales[p].load(at.page[p], HeadDim, lane);
  }
  using fragment = kv_fragment<Form>;
  fragment v[held][chunk_pages];
  const auto load_values = [&](int d, fragment(&to)[chunk_pages]) {
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      to[p] = fragment{};
      if (at.page[p] != nullptr) to[p].load(at.page[p] + fragment::size * (steps + d), lane);
    }
  };
  chunk_scores<HeadDim, Form>(job, at, scales, s);
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
    for (int p = 0; p < chunk_pages; ++p) {
      std::uint32_t a[4];
      v[early_values ? d : 0][p].halves(a);
      scales[p].values(a);
      mma(o, a, weights[p]);
    }
    float* to = out.o(slot) + (16 * d + lane / 4) * 8 + lane % 4 * 2;
    *reinterpret_cast<f32x2*>(to) = f32x2{o[0], o[1]};
    *reinterpret_cast<f32x2*>(to + 64) = f32x2{o[2], o[3]};
  }
  if (lane < 4) {
    *reinterpret_cast<f32x2*>(out.m(slot) + lane * 2) = f32x2{m[0], m[1]};
    *reinterpret_cast<f32x2*>(out.l(slot) + lane * 2) = f32x2{l[0], l[1]};
  }
}

}  // namespace foretoken::gpu
