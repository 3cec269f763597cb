// SPDX-License-Identifier: Apache-2.0
// Attention of up to four queries of one sequence over one KV head, softmax kept running.
// Keys [head_dim][16], values [16][padded] a page. Order of every query: chunks of 128 absolute
// positions ascending, pages ascending, positions ascending; nothing outside its own range is
// touched. So its bits depend on its position and window only, not on the queries beside it.

struct attention_state {
  float maximum[attention_tile];
  v16 sum[attention_tile];
  float probability[attention_tile][attention_chunk];
  float out[attention_tile][head_dim_max];
};

template <kv_type Type>
inline v16 load_kv(const std::byte* base, int index) {
  if constexpr (Type == kv_type::f16)
    return load_half(reinterpret_cast<const std::uint16_t*>(base) + index);
  else if constexpr (Type == kv_type::bf16)
    return load_bf16(reinterpret_cast<const std::uint16_t*>(base) + index);
  else if constexpr (Type == kv_type::int8)
    return load_int8(reinterpret_cast<const std::int8_t*>(base) + index);
  else
    return load(reinterpret_cast<const float*>(base) + index);
}

// Of int8, the 16 positions' scales behind the keys [dim][16] or the values [16][dim].
inline const float* page_scales(const std::byte* base, int dim) {
  return reinterpret_cast<const float*>(base + page_tokens * dim);
}

inline int first_position(const attention_job& job, int query) {
  const int first = job.window > 0 ? job.queries[query].position - job.window + 1 : 0;
  return first > 0 ? first : 0;
}

inline const std::byte* page_keys(const attention_job& job, int page) {
  return job.base + job.page_stride * static_cast<std::size_t>(job.pages[page]);
}

// Scores of Pages neighbouring pages at once: each sum is one chain of multiply-adds, and a few
// chains side by side hide its latency.
template <kv_type Type, int Count, int Pages>
void page_scores(const attention_job& job, int page, int slot, attention_state& state) {
  const std::byte* keys[score_pages];
  v16 sum[score_pages][attention_tile];
  for (int p = 0; p < Pages; ++p) {
    keys[p] = page_keys(job, page + p);
    for (int i = 0; i < Count; ++i) sum[p][i] = set1(0);
  }
  for (int d = 0; d < job.head_dim; ++d) {
    for (int p = 0; p < Pages; ++p) {
      const v16 key = load_kv<Type>(keys[p], d * page_tokens);
      for (int i = 0; i < Count; ++i) sum[p][i] = fma(key, set1(job.queries[i].q[d]), sum[p][i]);
    }
  }
  for (int p = 0; p < Pages; ++p) {
    for (int i = 0; i < Count; ++i) {
      v16 score = sum[p][i] * set1(job.scale);
      if constexpr (Type == kv_type::int8) score = score * load(page_scales(keys[p], job.head_dim));
      if (job.softcap > 0) {
        score = set1(job.softcap) * hyperbolic_tangent(score / set1(job.softcap));
      }
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
  v16 out[attention_tile][value_vectors];
  for (int i = 0; i < Count; ++i) {
    for (int v = 0; v < Vectors; ++v) out[i][v] = load(&state.out[first + i][d + 16 * v]);
  }
  for (int at = low; at < high; ++at) {
    v16 value[value_vectors];
    for (int v = 0; v < Vectors; ++v) value[v] = load_kv<Type>(values, at * dim + d + 16 * v);
    for (int i = 0; i < Count; ++i) {
      float share = state.probability[first + i][slot * page_tokens + at];
      if constexpr (Type == kv_type::int8) share *= page_scales(values, dim)[at];
      const v16 weight = set1(share);
      for (int v = 0; v < Vectors; ++v) out[i][v] = fma(value[v], weight, out[i][v]);
    }
  }
  for (int i = 0; i < Count; ++i) {
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

template <kv_type Type, int Count>
void page_values(const attention_job& job, int page, int slot, attention_state& state) {
  const std::byte* values = page_keys(job, page) + kv_key_bytes(Type, job.head_dim);
  const int base = page * page_tokens;
  int low[attention_tile];
  int high[attention_tile];
  bool whole = true;
  for (int i = 0; i < Count; ++i) {
    const int first = first_position(job, i) - base;
    const int end = job.queries[i].position + 1 - base;
    low[i] = first > 0 ? first : 0;
    high[i] = end < page_tokens ? end : page_tokens;
    whole = whole && low[i] == 0 && high[i] == page_tokens;
  }
  if (whole) return add_values<Type, Count>(job, values, slot, 0, 0, page_tokens, state);
  for (int i = 0; i < Count; ++i) {
    add_values<Type, 1>(job, values, slot, i, low[i], high[i], state);
  }
}

template <kv_type Type, int Count>
void attend_tile(const attention_job& job) {
  attention_state state;
  const int dim = padded_dim(job.head_dim);
  int begin = first_position(job, 0);
  int end = job.queries[0].position + 1;
  for (int i = 0; i < Count; ++i) {
    state.maximum[i] = -__builtin_inff();
    state.sum[i] = set1(0);
    for (int d = 0; d < dim; ++d) state.out[i][d] = 0;
    begin = first_position(job, i) < begin ? first_position(job, i) : begin;
    end = job.queries[i].position + 1 > end ? job.queries[i].position + 1 : end;
  }
  constexpr int chunk_pages = attention_chunk / page_tokens;
  for (int chunk = begin / attention_chunk * attention_chunk; chunk < end;
       chunk += attention_chunk) {
    const int lowest_page = chunk > begin ? chunk / page_tokens : begin / page_tokens;
    const int all_pages = (end + page_tokens - 1) / page_tokens;
    const int chunk_end = chunk / page_tokens + chunk_pages;
    const int page_end = all_pages < chunk_end ? all_pages : chunk_end;
    int scored = lowest_page;
    for (; scored + score_pages <= page_end; scored += score_pages) {
      page_scores<Type, Count, score_pages>(job, scored, scored - chunk / page_tokens, state);
    }
    for (; scored < page_end; ++scored) {
      page_scores<Type, Count, 1>(job, scored, scored - chunk / page_tokens, state);
    }
    for (int i = 0; i < Count; ++i) {
      const int first = first_position(job, i) > chunk ? first_position(job, i) : chunk;
      const int limit = chunk + attention_chunk;
      const int last = job.queries[i].position + 1 < limit ? job.queries[i].position + 1 : limit;
      if (first < last) chunk_softmax(state, i, chunk, first, last, dim);
    }
    for (int page = lowest_page; page < page_end; ++page) {
      page_values<Type, Count>(job, page, page - chunk / page_tokens, state);
    }
  }
  for (int i = 0; i < Count; ++i) {
    const v16 total = set1(sum_lanes(state.sum[i]));
    for (int d = 0; d < job.head_dim; d += 16) {
      store_some(job.queries[i].out + d, load(&state.out[i][d]) / total, job.head_dim - d);
    }
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

void attend(const attention_job& job) {
  switch (job.type) {
    case kv_type::bf16: return attend_some<kv_type::bf16>(job);
    case kv_type::int8: return attend_some<kv_type::int8>(job);
    case kv_type::f32: return attend_some<kv_type::f32>(job);
    default: return attend_some<kv_type::f16>(job);
  }
}
