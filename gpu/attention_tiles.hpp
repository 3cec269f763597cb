// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which tiles a step's attention is cut into: a choice of speed only, any gives the same bits.

#include <span>

#include "gpu/kernels.hpp"

namespace foretoken::gpu {

// Spans that a block of large tiles has at once (attention_large.cuh); 0: there is no such kernel.
constexpr int large_tile_teams(int head_dim, int columns) {
  return head_dim == 64 ? 256 / columns : head_dim == 128 ? 128 / columns : 0;
}
// Its shared memory.
constexpr int large_tile_bytes(int head_dim, int columns) {
  const int teams = large_tile_teams(head_dim, columns);
  if (teams == 0) return 0;
  const int chunks = teams * 2 * attention_chunk * head_dim * 4;
  const int result = columns * (head_dim * 4 + 32);
  const int positions = 256 * (head_dim == 64 ? 16 : 8);
  const int queries = head_dim == 64 ? columns * head_dim * 2 : 0;
  const int barriers = teams > 1 ? (teams + 2) / 2 * 16 : 0;
  return chunks + result + barriers + positions + queries;
}

// Whether there is a kernel for tiles of so many columns: f16, no softcap, no window that hides a
// position below positions_max, a KV head's queries in one tile, enough shared memory.
bool has_large_tiles(const launch_context& on, const attention_arguments& given, int columns);

// Consecutive rows of one sequence, the first at `position`.
struct row_run {
  int position = 0, rows = 0;
};
// Columns of the tiles that a step of such runs takes the least time with; `given`: a layer's shape
// and positions_max.
int choose_columns(const launch_context& on,
                   const attention_arguments& given,
                   std::span<const row_run> runs);
// Puts the longest work first. position: [rows]
void order_tiles(std::span<attention_tile> tiles, const std::int32_t* position);

status launch_large_attention(const launch_context& on, const attention_arguments& given);

}  // namespace foretoken::gpu
