// SPDX-License-Identifier: Apache-2.0
// Attention of up to twelve queries of one sequence over one KV head, four at once; softmax kept
// running. Keys and values of a page: row_kernels.hpp. Order of every query: chunks of 128 absolute
// positions ascending, pages ascending, positions ascending; nothing outside its own range is
// touched. So its bits depend on its position and window only, not on the queries beside it.

constexpr int tile_of_floats = 4;  // queries whose sums fill the registers

// Positions that any query of a tile sees.
struct position_range {
  int begin, end;
};

// The pages that are asked for while those of a chunk are read: of this job, or of the one that
// follows.
struct pages_ahead {
  int page;  // the first of them
  const std::byte* keys[attention_chunk / page_tokens];
};

struct attention_state {
  pages_ahead ahead;
  float maximum[attention_tile];
  v16 sum[attention_tile];
  float probability[attention_tile][attention_chunk];
  float out[attention_tile][head_dim_max];
};

// Value `row` of 16 positions' keys, or of position `row` 16 values; `index` is where they begin.
template <kv_type Type>
inline v16 load_kv(const std::byte* base, int index, int row) {
  if constexpr (Type == kv_type::f16)
    return load_half(reinterpret_cast<const std::uint16_t*>(base) + index);
  else if constexpr (Type == kv_type::bf16)
    return load_bf16_of(reinterpret_cast<const std::uint16_t*>(base) + index - row % 2,
                        row % 2 != 0);
  else if constexpr (Type == kv_type::int8)
    return load_int8(reinterpret_cast<const std::int8_t*>(base) + index);
  else
    return load(reinterpret_cast<const float*>(base) + index);
}
template <kv_type Type>
inline v16 load_keys(const std::byte* base, int d) {
  return load_kv<Type>(base, kv_key_index(Type, d, 0), d);
}
template <kv_type Type>
inline v16 load_values(const std::byte* base, int dim, int d, int slot) {
  return load_kv<Type>(base, kv_value_index(Type, dim, d, slot), slot);
}

// Of int8, the 16 positions' scales behind the keys [dim][16] or the values [16][dim].
inline const float* page_scales(const std::byte* base, int dim) {
  return reinterpret_cast<const float*>(base + page_tokens * dim);
}

inline int first_position(const attention_job& job, int query) {
  const int first = job.window > 0 ? job.queries[query].position - job.window + 1 : 0;
  return first > 0 ? first : 0;
}

inline const std::byte* keys_of(const attention_job& job, page_id page) {
  return job.base + job.page_stride * static_cast<std::size_t>(page);
}
inline const std::byte* page_keys(const attention_job& job, int page) {
  return keys_of(job, job.pages[page]);
}

// A page of this job, or behind its last one a page of the job that follows; any page when there is
// none.
inline const std::byte* page_ahead(const attention_job& job, const position_range& all, int page) {
  if (page * page_tokens < all.end) return page_keys(job, page);
  const int end = job.position_after + 1;
  const int first = job.window > 0 && end > job.window ? (end - job.window) / page_tokens : 0;
  const int behind = first + page - (all.end + page_tokens - 1) / page_tokens;
  if (behind * page_tokens >= end) return page_keys(job, all.begin / page_tokens);
  return job.base_after + job.page_stride * static_cast<std::size_t>(job.pages_after[behind]);
}

// Into the second-level cache: the first would drop it before it is read.
inline void ask_for(const std::byte* line) {
  __builtin_prefetch(line, 0, 2);
}

inline v16 capped(v16 score, float cap) {
  return set1(cap) * hyperbolic_tangent(score / set1(cap));
}

// Scores of Pages neighbouring pages at once: each sum is one chain of multiply-adds, and a few
// chains side by side hide its latency.
template <kv_type Type, int Count, int Pages>
void page_scores(const attention_job& job, int page, int slot, attention_state& state) {
  const int line_bytes = page_tokens * kv_value_bytes(Type);
  const std::byte* keys[score_pages];
  const std::byte* ahead[score_pages];
  v16 sum[score_pages][tile_of_floats];
#pragma GCC unroll 4
  for (int p = 0; p < Pages; ++p) {
    keys[p] = page_keys(job, page + p);
    ahead[p] = state.ahead.keys[slot + p];
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) sum[p][i] = set1(0);
  }
  for (int d = 0; d < job.head_dim; ++d) {
#pragma GCC unroll 4
    for (int p = 0; p < Pages; ++p) {
      const v16 key = load_keys<Type>(keys[p], d);
      ask_for(ahead[p] + d * line_bytes);
#pragma GCC unroll 4
      for (int i = 0; i < Count; ++i) sum[p][i] = fma(key, set1(job.queries[i].q[d]), sum[p][i]);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < Pages; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
      v16 score = sum[p][i] * set1(job.scale);
      if constexpr (Type == kv_type::int8) score = score * load(page_scales(keys[p], job.head_dim));
      if (job.softcap > 0) score = capped(score, job.softcap);
      store(&state.probability[i][(slot + p) * page_tokens], score);
    }
  }
}

// Scores of positions [first, end) of the chunk become weights; what was summed before is rescaled.
void chunk_softmax(attention_state& state, int query, int chunk, int first, int end, int dim) {
  float* values = state.probability[query];
  const v16 lowest = set1(-__builtin_inff());
  v16 best = lowest;
  const int page_first = (first - chunk) / page_tokens;
  const int page_end = (end - chunk + page_tokens - 1) / page_tokens;
  for (int page = page_first; page < page_end; ++page) {
    const int base = chunk + page * page_tokens;
    const int low = first > base ? first - base : 0;
    const int high = end - base < page_tokens ? end - base : page_tokens;
    best = max(best, keep(load(values + page * page_tokens), low, high, lowest));
  }
  const float here = max_lanes(best);
  const float before = state.maximum[query];
  const float maximum = here > before ? here : before;
  const v16 factor = exponential(set1(before - maximum));
  state.maximum[query] = maximum;
  state.sum[query] = state.sum[query] * factor;
  for (int d = 0; d < dim; d += 16) {
    store(&state.out[query][d], load(&state.out[query][d]) * factor);
  }
  for (int page = page_first; page < page_end; ++page) {
    const int base = chunk + page * page_tokens;
    const int low = first > base ? first - base : 0;
    const int high = end - base < page_tokens ? end - base : page_tokens;
    const v16 weight = exponential(load(values + page * page_tokens) - set1(maximum));
    const v16 kept = keep(weight, low, high, set1(0));
    store(values + page * page_tokens, kept);
    state.sum[query] = state.sum[query] + kept;
  }
}

// out += weight * value for positions [low, high) of a page, queries [first, first + Count), values
// [d, d + 16 * Vectors).
template <kv_type Type, int Count, int Vectors>
void add_columns(const attention_job& job,
                 const std::byte* values,
                 int slot,
                 int first,
                 int low,
                 int high,
                 int d,
                 attention_state& state) {
  const int dim = padded_dim(job.head_dim);
  v16 out[tile_of_floats][value_vectors];
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) out[i][v] = load(&state.out[first + i][d + 16 * v]);
  }
  const std::byte* const ahead =
      state.ahead.keys[slot] + kv_key_bytes(Type, job.head_dim) + d * kv_value_bytes(Type);
  for (int at = low; at < high; ++at) {
    v16 value[value_vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) value[v] = load_values<Type>(values, dim, d + 16 * v, at);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v += 64 / (16 * kv_value_bytes(Type))) {
      ask_for(ahead + (at * dim + 16 * v) * kv_value_bytes(Type));
    }
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i) {
      float share = state.probability[first + i][slot * page_tokens + at];
      if constexpr (Type == kv_type::int8) share *= page_scales(values, dim)[at];
      const v16 weight = set1(share);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) out[i][v] = fma(value[v], weight, out[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(&state.out[first + i][d + 16 * v], out[i][v]);
  }
}

template <kv_type Type, int Count>
void add_values(const attention_job& job,
                const std::byte* values,
                int slot,
                int first,
                int low,
                int high,
                attention_state& state) {
  const int dim = padded_dim(job.head_dim);
  constexpr int step = 16 * value_vectors;
  int d = 0;
  for (; d + step <= dim; d += step) {
    add_columns<Type, Count, value_vectors>(job, values, slot, first, low, high, d, state);
  }
  for (; d < dim; d += 16) {
    add_columns<Type, Count, 1>(job, values, slot, first, low, high, d, state);
  }
}

// A query's own positions [low, high) of a page.
struct page_range {
  int low, high;
};
inline page_range range_in(const attention_job& job, int query, int page) {
  const int first = first_position(job, query) - page * page_tokens;
  const int end = job.queries[query].position + 1 - page * page_tokens;
  return {first > 0 ? first : 0, end < page_tokens ? end : page_tokens};
}
template <int Count>
bool is_whole(const attention_job& job, int page) {
  bool whole = true;
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
    const page_range own = range_in(job, i, page);
    whole = whole && own.low == 0 && own.high == page_tokens;
  }
  return whole;
}

template <kv_type Type, int Count>
void page_values(const attention_job& job, int page, int slot, attention_state& state) {
  const std::byte* values = page_keys(job, page) + kv_key_bytes(Type, job.head_dim);
  if (is_whole<Count>(job, page)) {
    return add_values<Type, Count>(job, values, slot, 0, 0, page_tokens, state);
  }
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
    const page_range own = range_in(job, i, page);
    add_values<Type, 1>(job, values, slot, i, own.low, own.high, state);
  }
}

// Nothing summed yet, and a chunk asked for by the job before this one.
template <int Count>
position_range begin_tile(const attention_job& job, attention_state& state) {
  position_range all{first_position(job, 0), job.queries[0].position + 1};
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
    state.maximum[i] = -__builtin_inff();
    state.sum[i] = set1(0);
    for (int d = 0; d < padded_dim(job.head_dim); ++d) state.out[i][d] = 0;
    all.begin = first_position(job, i) < all.begin ? first_position(job, i) : all.begin;
    all.end = job.queries[i].position + 1 > all.end ? job.queries[i].position + 1 : all.end;
  }
  const int chunk_end = (all.begin + attention_chunk) / page_tokens;
  const int page_end = (all.end + page_tokens - 1) / page_tokens;
  state.ahead.page = chunk_end < page_end ? chunk_end : page_end;
  return all;
}

// Pages of a chunk that hold such positions.
struct chunk_pages {
  int begin, end;
};
// As many pages are asked for as the chunk has, each beside the page of its slot.
inline void look_ahead(const attention_job& job,
                       const position_range& all,
                       chunk_pages pages,
                       pages_ahead& ahead) {
  constexpr int chunk = attention_chunk / page_tokens;
  for (int page = pages.begin; page < pages.end; ++page) {
    ahead.keys[page % chunk] = page_ahead(job, all, ahead.page++);
  }
}
inline chunk_pages pages_of(int chunk, position_range all) {
  const int first = chunk > all.begin ? chunk : all.begin;
  const int pages_end = (all.end + page_tokens - 1) / page_tokens;
  const int chunk_end = (chunk + attention_chunk) / page_tokens;
  return {first / page_tokens, pages_end < chunk_end ? pages_end : chunk_end};
}

// `softmax` is chunk_softmax, or does the same.
template <int Count, class Softmax>
void softmax_of_chunk(
    const attention_job& job, int chunk, int dim, attention_state& state, Softmax&& softmax) {
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
    const int first = first_position(job, i) > chunk ? first_position(job, i) : chunk;
    const int limit = chunk + attention_chunk;
    const int last = job.queries[i].position + 1 < limit ? job.queries[i].position + 1 : limit;
    if (first < last) softmax(state, i, chunk, first, last, dim);
  }
}

template <int Count>
void finish_tile(const attention_job& job, attention_state& state) {
#pragma GCC unroll 4
  for (int i = 0; i < Count; ++i) {
    const v16 total = set1(sum_lanes(state.sum[i]));
    for (int d = 0; d < job.head_dim; d += 16) {
      store_some(job.queries[i].out + d, load(&state.out[i][d]) / total, job.head_dim - d);
    }
  }
}

template <kv_type Type, int Count>
void attend_tile(const attention_job& job) {
  attention_state state;
  const position_range all = begin_tile<Count>(job, state);
  for (int chunk = all.begin / attention_chunk * attention_chunk; chunk < all.end;
       chunk += attention_chunk) {
    const chunk_pages pages = pages_of(chunk, all);
    const int chunk_page = chunk / page_tokens;
    look_ahead(job, all, pages, state.ahead);
    int scored = pages.begin;
    for (; scored + score_pages <= pages.end; scored += score_pages) {
      page_scores<Type, Count, score_pages>(job, scored, scored - chunk_page, state);
    }
    for (; scored < pages.end; ++scored) {
      page_scores<Type, Count, 1>(job, scored, scored - chunk_page, state);
    }
    softmax_of_chunk<Count>(job, chunk, padded_dim(job.head_dim), state, chunk_softmax);
    for (int page = pages.begin; page < pages.end; ++page) {
      page_values<Type, Count>(job, page, page - chunk_page, state);
    }
  }
  finish_tile<Count>(job, state);
}

// Runs `attend` over the queries of a job, up to four at once.
inline void by_fours(const attention_job& job, void (*attend)(const attention_job&)) {
  if (job.query_count <= tile_of_floats) return attend(job);
  attention_job part = job;
  for (int first = 0; first < job.query_count; first += tile_of_floats) {
    const int left = job.query_count - first;
    part.query_count = left < tile_of_floats ? left : tile_of_floats;
    for (int i = 0; i < part.query_count; ++i) part.queries[i] = job.queries[first + i];
    attend(part);
  }
}

template <kv_type Type>
void attend_some(const attention_job& job) {
  switch (job.query_count) {
    case 1: return attend_tile<Type, 1>(job);
    case 2: return attend_tile<Type, 2>(job);
    case 3: return attend_tile<Type, 3>(job);
    default: return attend_tile<Type, 4>(job);
  }
}

void attend_with_floats(const attention_job& job) {
  switch (job.type) {
    case kv_type::bf16: return by_fours(job, attend_some<kv_type::bf16>);
    case kv_type::int8: return by_fours(job, attend_some<kv_type::int8>);
    case kv_type::f32: return by_fours(job, attend_some<kv_type::f32>);
    default: return by_fours(job, attend_some<kv_type::f16>);
  }
}
