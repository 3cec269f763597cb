// SPDX-License-Identifier: Apache-2.0
#include "gpu/attention_tiles.hpp"

#include <algorithm>

namespace foretoken::gpu {
namespace {

// What tiles of `tile_rows` rows of the runs read: chunks, and blocks of small tiles.
struct tile_work {
  double tiles = 0, chunks = 0, blocks = 0;
  int longest = 0;  // chunks of one tile
};
tile_work work_of(std::span<const row_run> runs, int tile_rows) {
  constexpr int block_positions = 2 * attention_span;  // attention.cu
  tile_work out;
  for (const row_run& one : runs) {
    for (int row = 0; row < one.rows; row += tile_rows) {
      const int last = one.position + std::min(row + tile_rows, one.rows) - 1;
      const int chunks = last / attention_chunk + 1;
      out.tiles += 1;
      out.chunks += chunks;
      out.blocks += last / block_positions + 1;
      out.longest = std::max(out.longest, chunks);
    }
  }
  return out;
}

// Microseconds a layer, fitted to gpu_step_bench --attention: SmolLM2 and Llama-1B, prompts of 128
// to 2,048 tokens, 128 to 2,048 rows, within a third (H200, 2026-11-30). Small tiles spread a long
// sequence over blocks; a large one's chunks come one after the other in one block, which takes 5
// us besides, and the last of several rounds of blocks is not full.
double small_us(const tile_work& of, int heads, int multiprocessors) {
  return (1.75 * of.blocks + 0.2 * of.chunks) * heads / multiprocessors;
}
double large_us(const tile_work& of, int teams, int heads, int multiprocessors) {
  const double chunk = 2.4 / teams, block = 5;
  return std::max(block + chunk * of.longest,
                  1.25 * (block * of.tiles + chunk * of.chunks) * heads / multiprocessors);
}

}  // namespace

bool has_large_tiles(const launch_context& on, const attention_arguments& given, int columns) {
  const int bytes = large_tile_bytes(given.head_dim, columns);
  const bool hides =
      given.window > 0 && (given.positions_max == 0 || given.window < given.positions_max);
  return bytes > 0 && bytes <= on.shared_bytes_max && given.form == kv_form::f16 &&
         given.softcap == 0 && !hides && given.heads / given.kv_heads <= columns;
}

int choose_columns(const launch_context& on,
                   const attention_arguments& given,
                   std::span<const row_run> runs) {
  // Short prompts have eight tiles a block (attention.cu): 11 us a layer for 2,048 rows of 32.
  if (given.positions_max > 0 && given.positions_max <= attention_chunk) return query_columns;
  const auto work = [&](int columns) {
    return work_of(runs, attention_tile_rows(given.heads, given.kv_heads, columns));
  };
  const int groups = (given.heads / given.kv_heads + query_columns - 1) / query_columns;
  int best = query_columns;
  double least = small_us(work(query_columns), given.kv_heads * groups, on.multiprocessors);
  for (const int columns : {64, 128}) {
    if (!has_large_tiles(on, given, columns)) continue;
    const double us = large_us(work(columns), large_tile_teams(given.head_dim, columns),
                               given.kv_heads, on.multiprocessors);
    if (us < least) {
      least = us;
      best = columns;
    }
  }
  return best;
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
