// SPDX-License-Identifier: Apache-2.0
#pragma once
// The kernel of large tiles (attention_large.cu): what a warp does with a chunk.

#include "gpu/attention_large.cuh"

namespace foretoken::gpu {

// Sums of a warp's columns: value = o / l, in units of exp(m). A lane has m and l of the columns
// lane / 4 and lane / 4 + 8 of a strip, and o of each half's columns 2 (lane % 4) and the next,
// dimensions 16 d + lane / 4 ([0], [1]) and 8 more ([2], [3]).
template <class Tile>
struct column_sums {
  float m[Tile::strips][2], l[Tile::strips][2];
  float o[Tile::strips][2][Tile::steps][4];

  FORETOKEN_DEVICE void clear() {
    FORETOKEN_UNROLL
    for (int i = 0; i < Tile::strips * 2; ++i) {
      m[i / 2][i % 2] = lowest;
      l[i / 2][i % 2] = 0;
      FORETOKEN_UNROLL
      for (int j = 0; j < Tile::steps * 4; ++j) o[i / 2][i % 2][j / 4][j % 4] = 0;
    }
  }
};

// Of what a lane has of column lane / 4: the values of the columns 2 (lane % 4) and the next.
FORETOKEN_DEVICE f32x2 of_columns(float value) {
  const int lane = thread_index() % 4 * 8;
  return {bits_float(shuffle(float_bits(value), lane)),
          bits_float(shuffle(float_bits(value), lane + 4))};
}

// What sums are multiplied by, and what is added to them, when two parts fold.
struct fold_factors {
  f32x2 keep, take;
  FORETOKEN_DEVICE void fold(float (&sum)[4], const float (&next)[4]) const {
    sum[0] = fused_multiply_add(sum[0], keep.x, next[0] * take.x);
    sum[1] = fused_multiply_add(sum[1], keep.y, next[1] * take.y);
    sum[2] = fused_multiply_add(sum[2], keep.x, next[2] * take.x);
    sum[3] = fused_multiply_add(sum[3], keep.y, next[3] * take.y);
  }
};

// fold() of a column that may have seen nothing: then l_next = 0, all its values are zeros, and a
// factor of -0 leaves the sums as they are, their signs too.
FORETOKEN_DEVICE fold_factors fold_seen(float& m, float& l, float m_next, float l_next) {
  float keep, take;
  fold(m, l, m_next, l_next, keep, take);
  return {of_columns(keep), of_columns(l_next > 0 ? take : -0.0f)};
}

// s: scores in, weights out. m and l as the chunk's sums; their order is that of chunk_softmax:
// there a lane has the tokens t and t + 8 of each page, here of two such t.
FORETOKEN_DEVICE void strip_softmax(float (&s)[2 * chunk_pages][4], float (&m)[2], float (&l)[2]) {
  FORETOKEN_UNROLL
  for (int upper = 0; upper < 2; ++upper) {
    float largest = lowest;
    FORETOKEN_UNROLL
    for (int n = 0; n < 2 * chunk_pages; ++n) {
      largest = larger(largest, larger(s[n][2 * upper], s[n][2 * upper + 1]));
    }
    largest = larger(largest, shuffle_xor(largest, 2));
    largest = larger(largest, shuffle_xor(largest, 1));
    m[upper] = largest;
    const float unit = largest > lowest ? largest : 0.0f;  // exp(lowest) = 0
    float sum[2] = {0, 0};
    FORETOKEN_UNROLL
    for (int n = 0; n < 2 * chunk_pages; ++n) {
      FORETOKEN_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& one = s[n][2 * upper + i];
        one = natural_exp(one - unit);
        sum[i] += one;
      }
    }
    FORETOKEN_UNROLL
    for (int i = 0; i < 2; ++i) {
      sum[i] += shuffle_xor(sum[i], 2);
      sum[i] += shuffle_xor(sum[i], 1);
    }
    l[upper] = sum[0] + sum[1];
  }
}

FORETOKEN_DEVICE u32x4 load_fragment(const unsigned char* fragment) {
  return *reinterpret_cast<const u32x4*>(fragment + thread_index() % 32 * 16);
}

// Keys are stored as operand A (numerics.cuh). As B a fragment is two of 8 tokens.
template <class Tile>
FORETOKEN_DEVICE void large_scores(const unsigned char* chunk,
                                   std::uint32_t same,
                                   const query_fragments<Tile>& q,
                                   float (&s)[Tile::strips][2 * chunk_pages][4]) {
  FORETOKEN_UNROLL
  for (int k = 0; k < Tile::steps; ++k) {
    std::uint32_t a[Tile::strips][4];
    FORETOKEN_UNROLL
    for (int strip = 0; strip < Tile::strips; ++strip) {
      const u32x4 all = q.at(strip, k);
      a[strip][0] = all.x;
      a[strip][1] = all.y;
      a[strip][2] = all.z;
      a[strip][3] = all.w;
    }
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      const u32x4 keys = load_fragment(chunk + p * Tile::page_bytes + k * 512);
      const auto moved = [&](std::uint32_t v) { return pick_bytes(v, 0, same); };
      const std::uint32_t low[2] = {moved(keys.x), moved(keys.z)};
      const std::uint32_t high[2] = {moved(keys.y), moved(keys.w)};
      FORETOKEN_UNROLL
      for (int strip = 0; strip < Tile::strips; ++strip) {
        mma(s[strip][2 * p], a[strip], low);
        mma(s[strip][2 * p + 1], a[strip], high);
      }
    }
  }
}

// Folds one chunk, of positions from `first` on, into `span`. No column's position is below
// `all_see`.
template <class Tile>
FORETOKEN_DEVICE void large_chunk(const unsigned char* chunk,
                                  std::uint32_t same,
                                  int first,
                                  int all_see,
                                  const query_fragments<Tile>& q,
                                  column_sums<Tile>& span) {
  constexpr int strips = Tile::strips;
  float s[strips][2 * chunk_pages][4] = {};
  large_scores<Tile>(chunk, same, q, s);
  if (first + chunk_positions - 1 > all_see) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 2 * strips; ++i) {
      const int hidden = position_of<Tile>(i / 2, i % 2) - first + 1;
      FORETOKEN_UNROLL
      for (int j = 0; j < 4 * chunk_pages; ++j) {
        const int token = j / 2 * 8 + thread_index() % 4 * 2 + j % 2;
        float& one = s[i / 2][j / 2][i % 2 * 2 + j % 2];
        if (token >= hidden) one = lowest;
      }
    }
  }
  fold_factors by[strips][2];
  std::uint32_t weights[strips][2][chunk_pages][2];
  FORETOKEN_UNROLL
  for (int strip = 0; strip < strips; ++strip) {
    float m[2], l[2];
    strip_softmax(s[strip], m, l);
    FORETOKEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      by[strip][half] = fold_seen(span.m[strip][half], span.l[strip][half], m[half], l[half]);
      FORETOKEN_UNROLL
      for (int n = 0; n < 2 * chunk_pages; ++n) {
        weights[strip][half][n / 2][n % 2] =
            half_pair(s[strip][n][2 * half], s[strip][n][2 * half + 1]);
      }
    }
  }
  FORETOKEN_UNROLL
  for (int d = 0; d < Tile::steps; ++d) {
    float o[strips][2][4] = {};
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      const u32x4 values = load_fragment(chunk + p * Tile::page_bytes + (Tile::steps + d) * 512);
      const std::uint32_t a[4] = {values.x, values.y, values.z, values.w};
      FORETOKEN_UNROLL
      for (int i = 0; i < 2 * strips; ++i) mma(o[i / 2][i % 2], a, weights[i / 2][i % 2][p]);
    }
    FORETOKEN_UNROLL
    for (int i = 0; i < 2 * strips; ++i) {
      by[i / 2][i % 2].fold(span.o[i / 2][i % 2][d], o[i / 2][i % 2]);
    }
  }
}

}  // namespace foretoken::gpu
