// SPDX-License-Identifier: Apache-2.0
// Attention over keys and values in bf16 with vdpbf16ps: queries and weights are rounded to bf16
// as well, and each instruction multiplies 16 pairs (of neighbouring columns for scores, of
// neighbouring positions for values) and adds them to 16 floats: twice the rate of multiply-adds.
// The order of chunks is that of attention.inl, softmax goes by powers of two; a query's bits
// depend on its position and window only. Included once, behind attention.inl.

#define FORETOKEN_BF16   \
  __attribute__((target( \
      "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")))

constexpr float log2_e = 1.44269504f;
constexpr int bf16_chunk_pairs = attention_chunk / 2;

struct bf16_state {
  attention_state floats;
  std::uint32_t query[attention_tile][head_dim_max / 2];
  std::uint32_t weight[attention_tile][bf16_chunk_pairs];
};

FORETOKEN_BF16 inline __m512bh pair_of(std::uint32_t both) {
  return __builtin_bit_cast(__m512bh, _mm512_set1_epi32(static_cast<int>(both)));
}
FORETOKEN_BF16 inline __m512bh pairs_at(const std::byte* from, std::size_t pair) {
  return __builtin_bit_cast(__m512bh, _mm512_loadu_si512(from + 4 * pair));
}
// One of the two of each pair, and a zero.
FORETOKEN_BF16 inline __m512bh own_of(__m512bh pairs, int mask) {
  const __m512i bits = __builtin_bit_cast(__m512i, pairs);
  return __builtin_bit_cast(__m512bh, _mm512_and_si512(bits, _mm512_set1_epi32(mask)));
}
// 32 floats as 16 pairs.
FORETOKEN_BF16 inline void round_pairs(const float* from, std::uint32_t* to) {
  const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
  _mm512_storeu_si512(to, __builtin_bit_cast(__m512i, both));
}

// A query of head_dim values, with a zero behind an odd number of them.
FORETOKEN_BF16 inline void round_query(const float* q, int dim, std::uint32_t* to) {
  int d = 0;
  for (; d + 32 <= dim; d += 32) round_pairs(q + d, to + d / 2);
  if (d == dim) return;
  float part[32] = {};
  std::uint32_t pairs[16];
  for (int i = d; i < dim; ++i) part[i - d] = q[i];
  round_pairs(part, pairs);
  for (int i = d; i < dim; i += 2) to[i / 2] = pairs[(i - d) / 2];
}

// 2^x for x <= 0, relative error 3e-6 (a weight is rounded to 2e-3); below -126 it is 2^-126, a NaN
// stays one. Degree 5 Taylor on |r| <= 1/2.
FORETOKEN_BF16 inline v16 power_of_two_near(v16 x) {
  const v16 bounded = max(set1(-126.0f), x);
  const v16 n = nearest(bounded);
  const v16 r = bounded - n;
  v16 p = set1(1.3333558e-3f);
  p = fma(p, r, set1(9.6181291e-3f));
  p = fma(p, r, set1(5.5504109e-2f));
  p = fma(p, r, set1(0.24022651f));
  p = fma(p, r, set1(0.69314718f));
  p = fma(p, r, set1(1.0f));
  return {_mm512_scalef_ps(p.v, n.v)};
}

// As chunk_softmax, of scores that are exponents of two. What lies beside [first, end) in its pages
// becomes 2^-126, which no sum of weights sees: one of them is 1.
FORETOKEN_BF16 void powers_of_chunk(
    attention_state& state, int query, int chunk, int first, int end, int dim) {
  float* const begin = state.probability[query] + (first - chunk) / page_tokens * page_tokens;
  float* const last = state.probability[query] + (end - 1 - chunk) / page_tokens * page_tokens;
  const v16 lowest = set1(-__builtin_inff());
  store(begin, keep(load(begin), first % page_tokens, page_tokens, lowest));
  store(last, keep(load(last), 0, (end - 1) % page_tokens + 1, lowest));
  v16 best = lowest;
  for (const float* at = begin; at <= last; at += page_tokens) best = max(best, load(at));
  const float here = max_lanes(best);
  const float before = state.maximum[query];
  const float maximum = here > before ? here : before;
  const v16 factor = power_of_two_near(set1(before - maximum));
  state.maximum[query] = maximum;
  v16 sum = state.sum[query] * factor;
  for (int d = 0; d < dim; d += 16) {
    store(&state.out[query][d], load(&state.out[query][d]) * factor);
  }
  for (float* at = begin; at <= last; at += page_tokens) {
    const v16 weight = power_of_two_near(load(at) - set1(maximum));
    store(at, weight);
    sum = sum + weight;
  }
  state.sum[query] = sum;
}

// Scores of Pages neighbouring pages, as exponents of two.
template <int Count, int Pages>
FORETOKEN_BF16 void page_scores_bf16(const attention_job& job,
                                     int page,
                                     int slot,
                                     bf16_state& state) {
  const std::byte* keys[Pages];
  const std::byte* ahead[Pages];
  __m512 sum[Pages][Count];
#pragma GCC unroll 4
  for (int p = 0; p < Pages; ++p) {
    keys[p] = page_keys(job, page + p);
    ahead[p] = state.floats.ahead.keys[slot + p];
#pragma GCC unroll 12
    for (int i = 0; i < Count; ++i) sum[p][i] = _mm512_setzero_ps();
  }
  const int pairs = (job.head_dim + 1) / 2;
  const v16 scale = set1(job.softcap > 0 ? job.scale : job.scale * log2_e);
  for (int d = 0; d < pairs; ++d) {
    __m512bh key[Pages];
#pragma GCC unroll 4
    for (int p = 0; p < Pages; ++p) {
      key[p] = pairs_at(keys[p], static_cast<std::size_t>(d) * page_tokens);
      ask_for(ahead[p] + 64 * d);
    }
#pragma GCC unroll 12
    for (int i = 0; i < Count; ++i) {
      const __m512bh query = pair_of(state.query[i][d]);
#pragma GCC unroll 4
      for (int p = 0; p < Pages; ++p) sum[p][i] = _mm512_dpbf16_ps(sum[p][i], key[p], query);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < Pages; ++p) {
#pragma GCC unroll 12
    for (int i = 0; i < Count; ++i) {
      v16 score = v16{sum[p][i]} * scale;
      if (job.softcap > 0) score = capped(score, job.softcap) * set1(log2_e);
      store(&state.floats.probability[i][(slot + p) * page_tokens], score);
    }
  }
}

// Positions [low, high) of a page; whole pages may follow it, up to page_end.
struct bf16_span {
  int page, page_end, low, high;
};

// out += weights * values of a span, queries [first, first + Count), values [d, d + 16 * Vectors).
template <int Count, int Vectors>
FORETOKEN_BF16 void add_pairs(const attention_job& job,
                              const bf16_span& span,
                              int chunk_page,
                              int first,
                              int d,
                              bf16_state& state) {
  const auto dim = static_cast<std::size_t>(padded_dim(job.head_dim));
  const int key_bytes = kv_key_bytes(kv_type::bf16, job.head_dim);
  __m512 out[Count][Vectors];
#pragma GCC unroll 12
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) out[i][v] = load(&state.floats.out[first + i][d + 16 * v]).v;
  }
  for (int page = span.page; page < span.page_end; ++page) {
    const std::byte* const values = page_keys(job, page) + key_bytes + 4 * d;
    const std::byte* const ahead = state.floats.ahead.keys[page - chunk_page] + key_bytes + 4 * d;
    const int slot = (page - chunk_page) * (page_tokens / 2);
    for (int pair = span.low / 2; pair < (span.high + 1) / 2; ++pair) {
      __m512bh value[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        const auto at = static_cast<std::size_t>(pair) * dim + 16 * static_cast<std::size_t>(v);
        value[v] = pairs_at(values, at);
        ask_for(ahead + 4 * at);
      }
      if (2 * pair < span.low || 2 * pair + 2 > span.high) {  // one of the two is not its own
        const auto own = static_cast<int>(2 * pair < span.low ? 0xFFFF0000u : 0xFFFFu);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) value[v] = own_of(value[v], own);
      }
#pragma GCC unroll 12
      for (int i = 0; i < Count; ++i) {
        const __m512bh weight = pair_of(state.weight[first + i][slot + pair]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) out[i][v] = _mm512_dpbf16_ps(out[i][v], value[v], weight);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(&state.floats.out[first + i][d + 16 * v], {out[i][v]});
  }
}

template <int Count>
FORETOKEN_BF16 void add_span(
    const attention_job& job, const bf16_span& span, int chunk_page, int first, bf16_state& state) {
  const int dim = padded_dim(job.head_dim);
  constexpr int vectors = Count > 4 ? 2 : 4;
  int d = 0;
  for (; d + 16 * vectors <= dim; d += 16 * vectors)
    add_pairs<Count, vectors>(job, span, chunk_page, first, d, state);
  for (; d < dim; d += 16) add_pairs<Count, 1>(job, span, chunk_page, first, d, state);
}

// What all queries of a tile see of a page, cut at pairs where they differ.
template <int Count>
page_range shared_range(const attention_job& job, int page) {
  page_range shared = range_in(job, 0, page);
  bool same_low = true, same_high = true;
  for (int i = 1; i < Count; ++i) {
    const page_range own = range_in(job, i, page);
    same_low = same_low && own.low == shared.low;
    same_high = same_high && own.high == shared.high;
    shared.low = own.low > shared.low ? own.low : shared.low;
    shared.high = own.high < shared.high ? own.high : shared.high;
  }
  if (!same_low) shared.low = (shared.low + 1) / 2 * 2;
  if (!same_high) shared.high = shared.high / 2 * 2;
  if (shared.high < shared.low) shared.high = shared.low;
  return shared;
}

// Positions [low, high) of a page, of each query alone and as far as it sees them.
template <int Count>
FORETOKEN_BF16 void own_values(
    const attention_job& job, int page, page_range part, int chunk_page, bf16_state& state) {
  for (int i = 0; i < Count; ++i) {
    const page_range own = range_in(job, i, page);
    const int low = own.low > part.low ? own.low : part.low;
    const int high = own.high < part.high ? own.high : part.high;
    if (low < high) add_span<1>(job, {page, page + 1, low, high}, chunk_page, i, state);
  }
}

// Pages [page, page_end) of a chunk: what all queries see for all at once, the rest for each alone.
template <int Count>
FORETOKEN_BF16 void chunk_values_bf16(
    const attention_job& job, int page, int page_end, int chunk_page, bf16_state& state) {
  while (page < page_end) {
    int whole_end = page;
    while (whole_end < page_end && is_whole<Count>(job, whole_end)) ++whole_end;
    if (whole_end > page) {
      add_span<Count>(job, {page, whole_end, 0, page_tokens}, chunk_page, 0, state);
      page = whole_end;
      continue;
    }
    const page_range shared = shared_range<Count>(job, page);
    own_values<Count>(job, page, {0, shared.low}, chunk_page, state);
    if (shared.low < shared.high)
      add_span<Count>(job, {page, page + 1, shared.low, shared.high}, chunk_page, 0, state);
    own_values<Count>(job, page, {shared.high, page_tokens}, chunk_page, state);
    ++page;
  }
}

template <int Count>
FORETOKEN_BF16 void attend_tile_bf16(const attention_job& job) {
  constexpr int score_step = Count > 4 ? 2 : 4;  // 24 sums, or up to 16
  bf16_state state;
  const int dim = padded_dim(job.head_dim);
  const position_range all = begin_tile<Count>(job, state.floats);
  for (int i = 0; i < Count; ++i) round_query(job.queries[i].q, job.head_dim, state.query[i]);
  for (int chunk = all.begin / attention_chunk * attention_chunk; chunk < all.end;
       chunk += attention_chunk) {
    const chunk_pages pages = pages_of(chunk, all);
    const int chunk_page = chunk / page_tokens;
    look_ahead(job, all, pages, state.floats.ahead);
    int scored = pages.begin;
    for (; scored + score_step <= pages.end; scored += score_step)
      page_scores_bf16<Count, score_step>(job, scored, scored - chunk_page, state);
    for (; scored < pages.end; ++scored)
      page_scores_bf16<Count, 1>(job, scored, scored - chunk_page, state);
    softmax_of_chunk<Count>(job, chunk, dim, state.floats, powers_of_chunk);
#pragma GCC unroll 12
    for (int i = 0; i < Count; ++i) {
      for (int at = (pages.begin - chunk_page) * page_tokens / 32 * 32;
           at < (pages.end - chunk_page) * page_tokens; at += 32) {
        round_pairs(&state.floats.probability[i][at], &state.weight[i][at / 2]);
      }
    }
    chunk_values_bf16<Count>(job, pages.begin, pages.end, chunk_page, state);
  }
  finish_tile<Count>(job, state.floats);
}

void attend_few_bf16(const attention_job& job) {
  switch (job.query_count) {
    case 1: return attend_tile_bf16<1>(job);
    case 2: return attend_tile_bf16<2>(job);
    case 3: return attend_tile_bf16<3>(job);
    default: return attend_tile_bf16<4>(job);
  }
}

void attend_bf16(const attention_job& job) {
  if (job.query_count == attention_tile) return attend_tile_bf16<attention_tile>(job);
  by_fours(job, attend_few_bf16);
}
