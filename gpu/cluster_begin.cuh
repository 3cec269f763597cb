// SPDX-License-Identifier: Apache-2.0
#pragma once
// The beginning of a step: who attends to what and how many bytes each exchange brings, from the
// positions of the lane's rows; then barriers and the first weights.

#include "gpu/cluster_finish.cuh"

namespace foretoken::gpu::cluster {

template <class S>
FORETOKEN_DEVICE void fill_rows(const block<S>& b) {
  tables& t = b.table();
  if (b.thread < b.rows) {
    t.position[b.thread] = b.rows_of.position[b.thread];
    t.table[b.thread] = b.rows_of.table[b.thread];
  }
  if (b.thread == 0) t.clamped = 0;
}
template <class S>
FORETOKEN_DEVICE void fill_tokens(const block<S>& b) {
  tables& t = b.table();
  if (b.thread >= b.rows) return;
  t.token[b.thread] = b.rows_of.token[b.thread];
  t.newest_page[b.thread] = b.job.page_tables[wide(t.table[b.thread]) * wide(b.job.table_stride) +
                                              wide(t.position[b.thread] / page_positions)];
}

FORETOKEN_DEVICE int spans_of(int position) {
  return position / span_positions + 1;
}
template <class S>
FORETOKEN_DEVICE int spans_of_pair(const tables& t, int pair) {
  return spans_of(t.position[pair / S::kv_heads]);
}

// Spans are numbered through: first those behind which a pair has another, then each pair's last,
// which may be short. Span s belongs to block s % 16, its pair to pair % 16.
template <class S>
FORETOKEN_DEVICE void fill_pairs(const block<S>& b) {
  tables& t = b.table();
  const int pairs = b.rows * S::kv_heads;
  if (b.thread > pairs) return;
  int first = 0, slot = 0;
  for (int p = 0; p < b.thread; ++p) {
    const int spans = spans_of_pair<S>(t, p);
    first += spans - 1;
    if (p % blocks == b.thread % blocks) slot += spans;
  }
  t.first_span[b.thread] = first;
  if (b.thread < pairs) t.first_slot[b.thread] = slot;
}
// Which blocks attend to what.
template <class S>
FORETOKEN_DEVICE void fill_readers(const block<S>& b) {
  tables& t = b.table();
  const int pairs = b.rows * S::kv_heads;
  if (b.thread >= pairs) return;
  const int first = t.first_span[b.thread], end = t.first_span[b.thread + 1];
  const std::uint32_t last = 1u << (t.first_span[pairs] + b.thread) % blocks;
  std::uint32_t readers = last;
  for (int s = first; s < end && s < first + blocks; ++s) readers |= 1u << s % blocks;
  t.last_reader[b.thread] = last;
  t.readers[b.thread] = readers;
}

template <class S>
FORETOKEN_DEVICE void fill_items(const block<S>& b) {
  using at = memory<S>;
  tables& t = b.table();
  const int pairs = b.rows * S::kv_heads;
  const int whole = t.first_span[pairs], total = whole + pairs;
  const int n = b.thread;
  if (n < memory<S>::spans_read && b.rank + n * blocks < total) {
    const int span = b.rank + n * blocks;
    int pair = span - whole, number = 0;
    if (pair < 0) {
      pair = 0;
      while (t.first_span[pair + 1] <= span) ++pair;
      number = span - t.first_span[pair];
    } else {
      number = spans_of_pair<S>(t, pair) - 1;
    }
    t.item[n] = {pair, t.position[pair / S::kv_heads], number * span_positions,
                 t.first_slot[pair] + number};
  }
  if (n == spans_most) {
    t.spans = total > b.rank ? (total - b.rank + blocks - 1) / blocks : 0;
    std::uint32_t attention = 0, merge = 0;
    for (int p = 0; p < pairs; ++p) {
      if (t.readers[p] >> b.rank & 1) attention += S::group * head_dim * 2;
      if (t.last_reader[p] >> b.rank & 1) attention += 2 * head_dim * 2;
      if (p % blocks == b.rank) {
        merge += static_cast<std::uint32_t>(spans_of_pair<S>(t, p) * at::span_sent);
      }
    }
    t.bytes[to_attention] = attention;
    t.bytes[to_merge] = merge;
    t.bytes[to_output] = static_cast<std::uint32_t>(b.rows * S::heads * head_dim * 2);
    t.bytes[to_ffn] = t.bytes[to_next] = residual_bytes<S>(b.rows);
    t.bytes[to_down] = static_cast<std::uint32_t>(b.rows * S::ffn * 2);
  }
}

// Deals the chunks of the items to the warps, in turns of whole items. One thread.
template <class S>
FORETOKEN_DEVICE void fill_turns(const block<S>& b) {
  tables& t = b.table();
  int turn = 0, dealt = 0, most = 0;
  t.first_item[0] = 0;
  for (int n = 0; n < t.spans; ++n) {
    const int chunks = chunks_of(t.item[n]);
    if (dealt + chunks > memory<S>::chunks_at_once ||
        n - t.first_item[turn] == memory<S>::items_at_once) {
      for (; dealt < warps; ++dealt) t.chunk[turn][dealt] = -1;
      t.first_item[++turn] = n;
      dealt = 0;
    }
    most = max(most, dealt + chunks);
    for (int i = 0; i < chunks; ++i) {
      t.chunk[turn][dealt++] = static_cast<std::int8_t>(n * span_chunks + i);
    }
  }
  for (; dealt < warps; ++dealt) t.chunk[turn][dealt] = -1;
  t.turns = t.spans > 0 ? turn + 1 : 0;
  t.values_in_o = most > memory<S>::values_beside_o;
  t.first_item[t.turns] = t.spans;
}

template <class S>
FORETOKEN_DEVICE void fill_pages(const block<S>& b) {
  const tables& t = b.table();
  auto* const pages = reinterpret_cast<int*>(b.base() + memory<S>::pages);
  for (int i = b.thread; i < t.spans * span_pages; i += threads) {
    const work_item& item = t.item[i / span_pages];
    int page = item.first / page_positions + i % span_pages;
    // Pages beyond the position stand for the first of their chunk; their scores are masked.
    if (page * page_positions > item.position) page -= i % chunk_pages;
    pages[i] = 0;
    if (page * page_positions > item.position) continue;
    pages[i] = b.job.page_tables[wide(t.table[item.pair / S::kv_heads]) * wide(b.job.table_stride) +
                                 wide(page)] *
                   S::kv_heads +
               item.pair % S::kv_heads;
  }
}

template <class S>
FORETOKEN_DEVICE void arm(const block<S>& b, exchange which) {
  if (b.table().bytes[which] > 0) barrier_expect(b.arrival(which), b.table().bytes[which]);
}
// A compute thread waits for an exchange of `layer`. The warps outside the FFN arm the barrier
// again before its next wait: bytes that come before are counted.
template <class S>
FORETOKEN_DEVICE void await(const block<S>& b, exchange which, int layer) {
  barrier_wait(b.arrival(which), layer & 1);
}

// Barriers, the first layer's first weights and what follows from positions alone, while the step
// before ends. Ends with a barrier of the cluster.
template <class S>
FORETOKEN_DEVICE void begin(block<S>& b) {
  if (b.lane == 0) {
    for (int i = 0; i < barriers_a_warp; ++i) barrier_init(b.weight_barrier(b.warp, i), 1);
    if (b.warp == 0) {
      for (int i = 0; i < exchanges; ++i) barrier_init(b.arrival(static_cast<exchange>(i)), 1);
      barrier_init(b.handed(attention_read), threads);
      barrier_init(b.handed(scales_ready), threads - tile_threads);
      barrier_init(b.handed(gate_up_read), tile_threads);
    }
    fence_barrier_init();
    const duties mine = duties_of(b);
    if (mine.q) load_record(b, b.warp, matrix::q, 0);
  }
  fill_rows(b);
  block_sync();
  fill_pairs(b);
  block_sync();
  fill_readers(b);
  block_sync();
  fill_items(b);
  block_sync();
  if (b.thread == 0) {
    for (int i = 0; i < exchanges; ++i) arm(b, static_cast<exchange>(i));
  }
  if (b.thread == 32) fill_turns(b);
  for (int i = b.thread; i < b.rows * head_dim; i += threads) {
    b.floats(memory<S>::angles)[i] =
        b.job.model.angles[wide(b.table().position[i / head_dim]) * head_dim + wide(i % head_dim)];
  }
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) b.peer[i] = address_in(b.local(0), 4 * (b.lane / 8) + i);
  cluster_barrier();
}
// The step before has ended: its tokens, and the pages.
template <class S>
FORETOKEN_DEVICE void follow(const block<S>& b) {
  wait_for_predecessor();
  release_successor();  // the general path's head loads weights on multiprocessors without a lane
  fill_tokens(b);
  fill_pages(b);
  block_sync();
}

}  // namespace foretoken::gpu::cluster
