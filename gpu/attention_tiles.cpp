// SPDX-License-Identifier: Apache-2.0
#include "gpu/attention_tiles.hpp"

#include <algorithm>

namespace foretoken::gpu {
namespace {

// Chunks that the tiles of `runs` read, and `more` a tile.
int chunks_of(std::span<const row_run> runs, int tile_rows, int more) {
  int sum = 0;
  for (const row_run& one : runs) {
    for (int row = 0; row < one.rows; row += tile_rows) {
      const int last = one.position + std::min(row + tile_rows, one.rows) - 1;
      sum += last / attention_chunk + 1 + more;
    }
  }
  return sum;
}

// Tiles of the runs that fill half of one at least.
int filled_tiles(std::span<const row_run> runs, int tile_rows) {
  int sum = 0;
  for (const row_run& one : runs) {
    if (2 * one.rows >= tile_rows) sum += (one.rows + tile_rows - 1) / tile_rows;
  }
  return sum;
}

}  // namespace

bool has_large_tiles(const launch_context& on, const attention_arguments& given, int columns) {
  const int bytes = large_tile_bytes(given.head_dim, columns);
  const bool hides =
      given.window > 0 && (given.positions_max == 0 || given.window < given.positions_max);
  return bytes > 0 && bytes <= on.shared_bytes_max && given.form == kv_form::f16 &&
         given.softcap == 0 && !hides && given.heads / given.kv_heads <= columns;
}

// Times on a multiprocessor: a chunk of a small tile 0.5 us (H100, 2026-11-24: SmolLM2, prompts of
// 32, 512 and 2,048); a chunk of a large one is taken as the same, and what a large tile takes
// besides as four.
int choose_columns(const launch_context& on,
                   const attention_arguments& given,
                   std::span<const row_run> runs) {
  const auto rows_of = [&](int columns) {
    return attention_tile_rows(given.heads, given.kv_heads, columns);
  };
  // Short prompts have eight tiles a block (attention.cu): 11 us a layer for 2,048 rows of 32.
  if (given.positions_max > 0 && given.positions_max <= attention_chunk) return query_columns;
  const int groups = (given.heads / given.kv_heads + query_columns - 1) / query_columns;
  const int small = chunks_of(runs, rows_of(query_columns), 0) * groups;
  // Below some 4 us a layer the small tiles are bound by latency, and it is theirs that is less.
  if (small * given.kv_heads < 8 * on.multiprocessors) return query_columns;
  // 128 columns read half as much; 64 where there would be few blocks: 75 or 78 are better as twice
  // as many of 64 columns, 96 and more are not (gpu_step_bench --attention, H200, 2026-11-30).
  for (const int columns : {128, 64}) {
    if (!has_large_tiles(on, given, columns)) continue;
    const int filled = filled_tiles(runs, rows_of(columns)) * given.kv_heads;
    const bool few = 3 * filled < 2 * on.multiprocessors;
    if (columns == 128 && few && has_large_tiles(on, given, 64)) continue;
    return chunks_of(runs, rows_of(columns), 4) < small ? columns : query_columns;
  }
  return query_columns;
}

void order_tiles(std::span<attention_tile> tiles, const std::int32_t* position) {
  const auto last = [&](const attention_tile& one) {
    return one.count > 0 ? position[one.first + one.count - 1] : -1;
  };
  std::ranges::sort(tiles, [&](const attention_tile& a, const attention_tile& b) {
    return last(a) != last(b) ? last(a) > last(b) : a.first < b.first;
  });
}

}  // namespace foretoken::gpu
