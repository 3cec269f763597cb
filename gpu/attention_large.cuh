// SPDX-License-Identifier: Apache-2.0
#pragma once
// The kernel of large tiles (attention_large.cu): what a block is, what a team copies, the queries.

#include "gpu/attention_chunk.cuh"

namespace foretoken::gpu {

// Teams of warps, each with a span of its own; a warp has `Strips` times 16 columns.
template <int HeadDim, int Teams, int Warps, int Strips>
struct large_tile {
  static constexpr int head_dim = HeadDim, teams = Teams, strips = Strips;
  static constexpr int steps = HeadDim / 16;
  static constexpr int warp_columns = Strips * 16;
  static constexpr int columns = Warps * warp_columns;
  static constexpr int team_threads = Warps * 32;
  static constexpr int threads = Teams * team_threads;
  static constexpr int page_bytes = 16 * HeadDim * 2 * 2;  // one head's keys and values
  static constexpr int chunk_bytes = chunk_pages * page_bytes;
  // Shared memory: two chunks a team; the result so far, as each thread of a team has its part of
  // it; barriers where there are several teams; the positions of each thread's columns; queries.
  static constexpr int parts = Strips * (2 * steps + 1);
  static constexpr int result_at = Teams * 2 * chunk_bytes;
  static constexpr int barriers_at = result_at + team_threads * parts * 16;
  static constexpr int positions_at = barriers_at + (Teams > 1 ? (Teams + 2) / 2 * 16 : 0);
  static constexpr int queries_at = positions_at + threads * Strips * 8;
  static constexpr bool shares_queries = Strips > 1;
  static constexpr int bytes = queries_at + (shares_queries ? columns * HeadDim * 2 : 0);
};

struct large_job {
  attention_arguments given;
  int group = 1;    // query heads a KV head
  int inverse = 0;  // ceil(65536 / group)
  // pick_bytes() of all four. Not a constant, so that keys are moved once: else the compiler moves
  // them for each product.
  std::uint32_t same = 0x3210;
};

// How teams of a block hand the result over, each to the next: by the barrier of the one that takes
// it. They meet by another one when all have folded their spans.
template <class Tile>
struct team_barriers {
  static constexpr bool there = Tile::teams > 1;
  FORETOKEN_DEVICE static barrier* of_team(int team) {
    return reinterpret_cast<barrier*>(shared_memory() + Tile::barriers_at) + team;
  }
  // Before a block_sync.
  FORETOKEN_DEVICE static void init() {
    if (!there || thread_index() > Tile::teams) return;
    barrier_init(of_team(thread_index()),
                 thread_index() < Tile::teams ? Tile::team_threads : Tile::threads);
  }
  // Of span `number`, by the team that has it.
  FORETOKEN_DEVICE static void take(int number) {
    if (!there || number == 0) return;
    barrier_wait(of_team(number % Tile::teams), (number - 1) / Tile::teams % 2);
  }
  FORETOKEN_DEVICE static void hand_over(int number) {
    if (there) barrier_arrive(of_team((number + 1) % Tile::teams));
  }
  FORETOKEN_DEVICE static void meet() {
    if (!there) return block_sync();
    barrier_arrive(of_team(Tile::teams));
    barrier_wait(of_team(Tile::teams), 0);
  }
};

// The columns of a tile: row by row, the heads of each.
struct column_order {
  const large_job& job;
  attention_tile tile;
  int first_position = 0, step = 0;  // of its rows
  FORETOKEN_DEVICE explicit column_order(const large_job& given_job)
      : job(given_job), tile(job.given.tiles[block_y()]) {
    if (tile.count < 1) return;
    const std::int32_t* const position = job.given.rows.position;
    first_position = position[tile.first];
    step = tile.count > 1 ? position[tile.first + 1] - first_position : 1;
  }
  FORETOKEN_DEVICE int row_of(int column) const { return column * job.inverse >> 16; }
  FORETOKEN_DEVICE bool has(int column) const { return row_of(column) < tile.count; }
  FORETOKEN_DEVICE int position(int column) const {
    const int row = row_of(column);
    return row < tile.count ? first_position + row * step : -1;
  }
  // Where a column's values start in an array [rows][stride].
  FORETOKEN_DEVICE std::size_t offset(int column, int stride, int head_dim) const {
    const int row = row_of(column);
    const int head = block_x() * job.group + column - row * job.group;
    return wide(tile.first + row) * wide(stride) + wide(head * head_dim);
  }
};

// A warp's column of strip `strip` whose sums are a lane's values 2 `upper` and 2 `upper` + 1.
template <class Tile>
FORETOKEN_DEVICE int column_of(int strip, int upper) {
  const int warp = thread_index() % Tile::team_threads / 32;
  return warp * Tile::warp_columns + strip * 16 + upper * 8 + thread_index() % 32 / 4;
}

// The positions of the columns whose scores this thread has. In registers they would be spilled.
template <class Tile>
FORETOKEN_DEVICE int& position_of(int strip, int upper) {
  auto* const all = reinterpret_cast<int*>(shared_memory() + Tile::positions_at);
  return all[(2 * strip + upper) * Tile::threads + thread_index()];
}

// A team's chunks on their way into shared memory, one ahead: those of its spans, ascending.
template <class Tile>
struct chunk_feed {
  const std::int32_t* pages;  // of the sequence
  const std::uint16_t* kv;    // the head's part of page 0
  int page_values;            // from page to page
  int last_page, chunks;      // of the tile
  int next;                   // the chunk to be started

  FORETOKEN_DEVICE chunk_feed(const attention_arguments& given,
                              const attention_tile& tile,
                              int last)
      : pages(given.rows.pages +
              wide(given.rows.table[tile.first]) * wide(given.rows.table_stride)),
        kv(given.kv + wide(block_x()) * (Tile::page_bytes / 2)),
        page_values(given.kv_heads * (Tile::page_bytes / 2)),
        last_page(last / 16),
        chunks(last / chunk_positions + 1),
        next(thread_index() / Tile::team_threads * span_chunks) {}
  FORETOKEN_DEVICE static unsigned char* place(int chunk) {
    const int team = thread_index() / Tile::team_threads;
    return shared_memory() + (team * 2 + chunk % 2) * Tile::chunk_bytes;
  }
  FORETOKEN_DEVICE void start() {
    if (next >= chunks) return;
    constexpr int at_once = Tile::team_threads * 16;
    const int offset = thread_index() % Tile::team_threads * 16;
    unsigned char* const to = place(next) + offset;
    FORETOKEN_UNROLL
    for (int p = 0; p < chunk_pages; ++p) {
      // Pages beyond the last are not touched: their keys are masked, whatever stands there.
      const int number = next * chunk_pages + p;
      const int page = pages[number < last_page ? number : last_page];
      const auto* const from =
          reinterpret_cast<const unsigned char*>(kv + wide(page) * wide(page_values)) + offset;
      FORETOKEN_UNROLL
      for (int i = 0; i < Tile::page_bytes; i += at_once) {
        copy_async_16(to + p * Tile::page_bytes + i, from + i);
      }
    }
    copy_async_commit();
    const bool ends = next % span_chunks == span_chunks - 1;
    next += ends ? 1 + (Tile::teams - 1) * span_chunks : 1;
  }
};

// The queries of a warp's columns. Two strips would take too many registers: then they stand in
// shared memory, once for all teams.
template <class Tile>
struct query_fragments {
  u32x4 own[Tile::shares_queries ? 1 : Tile::steps];

  FORETOKEN_DEVICE static u32x4& shared(int strip, int k) {
    auto* const all = reinterpret_cast<u32x4*>(shared_memory() + Tile::queries_at);
    return all[(strip * Tile::steps + k) * Tile::team_threads +
               thread_index() % Tile::team_threads];
  }
  FORETOKEN_DEVICE u32x4 at(int strip, int k) const {
    if constexpr (Tile::shares_queries) return shared(strip, k);
    return own[k];
  }
  FORETOKEN_DEVICE void load(const column_order& columns) {
    if (Tile::shares_queries && thread_index() >= Tile::team_threads) return;
    const attention_arguments& given = columns.job.given;
    FORETOKEN_UNROLL
    for (int strip = 0; strip < Tile::strips; ++strip) {
      const std::uint32_t* from[2];
      FORETOKEN_UNROLL
      for (int upper = 0; upper < 2; ++upper) {
        const int column = column_of<Tile>(strip, upper);
        from[upper] = columns.has(column)
                          ? reinterpret_cast<const std::uint32_t*>(
                                given.work.q + columns.offset(column, given.heads * Tile::head_dim,
                                                              Tile::head_dim)) +
                                thread_index() % 4
                          : nullptr;
      }
      FORETOKEN_UNROLL
      for (int k = 0; k < Tile::steps; ++k) {
        const auto value = [&](int upper, int i) {
          return from[upper] != nullptr ? from[upper][8 * k + i] : 0;
        };
        const u32x4 all{value(0, 0), value(1, 0), value(0, 4), value(1, 4)};
        if constexpr (Tile::shares_queries) {
          shared(strip, k) = all;
        } else {
          own[k] = all;
        }
      }
    }
  }
};

}  // namespace foretoken::gpu
