// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where everything stands in the weight streams and in the shared memory of the cluster-resident
// decode step. Plain C++: the packer and the kernel read the same numbers.
//
// A cluster is 16 blocks; tile t (16 output rows) of a matrix belongs to block t % 16 and is its
// tile t / 16. A UNIT is one segment (a quarter of K) of one tile: one warp computes it. A record
// holds a unit's weights: codes of its k16 steps, 4 bits each, in A-fragment order (four steps a
// 16-byte lane word group, the remainder one step each), then its groups of 32 columns: [group][row
// g] {d, m of row g; d, m of row g + 8}, f16. A group that straddles two segments stands in both.
//
// Stream of one block and layer: Q [16 warps] O [12] G [12][4 segments] D [12]; warp w of Q, O and
// D holds unit (tile w / 4, segment w % 4); warp w of G holds tile w whole. Records of tiles that
// the block does not have are there but neither filled nor loaded. Stream of one block's head:
// [round][12 warps][4 segments], tile = rank * tiles + round * 12 + warp.

#include <cstddef>
#include <cstdint>

namespace foretoken::gpu::cluster {

constexpr int blocks = 16;
constexpr int warps = 16;
constexpr int tile_warps = 12;  // that take O, G, D and head tiles: three a scheduler
constexpr int parts = 4;        // segments of K
constexpr int head_dim = 64;
constexpr int steps_head = head_dim / 16;
constexpr int rows_most = 16;
constexpr int page_positions = 16;

constexpr int groups_of(int steps) {
  return (steps + 1) / 2;
}
constexpr int record_bytes(int steps) {
  return steps * 128 + groups_of(steps) * 64;
}
constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}
constexpr int least(int a, int b) {
  return a < b ? a : b;
}

// Rows are the columns of m16n8k16: groups of eight, of which the last may have fewer.
constexpr int columns_of(int rows) {
  return ceil_div(rows, 8);
}
// Inputs of one k16 step, B fragments: 32 bytes a row, one group after the other.
constexpr int step_bytes(int rows) {
  return 32 * rows;
}

// Width, Heads, KvHeads, Ffn, Vocabulary of the model; Rows = how many a lane can take.
template <int Width, int Heads, int KvHeads, int Ffn, int Vocabulary, int Rows>
struct shape {
  static constexpr int width = Width, heads = Heads, kv_heads = KvHeads, ffn = Ffn;
  static constexpr int vocabulary = Vocabulary, rows = Rows;
  static constexpr int group = Heads / KvHeads;
  static constexpr int columns = columns_of(Rows);
  static constexpr int rows_in_fours = ceil_div(Rows, 4) * 4;
  static constexpr int pairs = Rows * KvHeads;  // (row, KV head)

  static constexpr int steps_width = Width / 64;  // k16 steps of a segment
  static constexpr int steps_out = Heads * head_dim / 64;
  static constexpr int steps_ffn = Ffn / 64;
  static constexpr int tiles_qkv = (Heads + 2 * KvHeads) * 4;
  static constexpr int tiles_width = Width / 16;
  static constexpr int tiles_gate = Ffn / 8;
  static constexpr int tiles_head = ceil_div(Vocabulary, 16);
  static constexpr int q_tiles = ceil_div(tiles_qkv, blocks);  // of a block, at most
  static constexpr int o_tiles = ceil_div(tiles_width, blocks);
  static constexpr int g_tiles = ceil_div(tiles_gate, blocks);
  static constexpr int h_tiles = ceil_div(tiles_head, blocks);
  static constexpr int h_rounds = ceil_div(h_tiles, tile_warps);

  static constexpr int record_in = record_bytes(steps_width);
  static constexpr int record_out = record_bytes(steps_out);
  static constexpr int record_ffn = record_bytes(steps_ffn);
  // One block's stream of a layer:
  static constexpr int at_q = 0;
  static constexpr int at_o = at_q + q_tiles * parts * record_in;
  static constexpr int at_g = at_o + o_tiles * parts * record_out;
  static constexpr int at_d = at_g + g_tiles * parts * record_in;
  static constexpr int layer_bytes = at_d + o_tiles * parts * record_ffn;
  // Where shared memory holds it; every warp has its slots, also those without a tile. Values of
  // attention stand there too, while they wait for weights (memory<S>::values).
  static constexpr int slot_q = 0;
  static constexpr int slot_o = slot_q + warps * record_in;
  static constexpr int slot_g = slot_o + tile_warps * record_out;
  static constexpr int slot_d = slot_g + tile_warps * parts * record_in;
  static constexpr int slots_end = slot_d + tile_warps * record_ffn;
  static constexpr int head_bytes = h_rounds * tile_warps * parts * record_in;

  static_assert(Vocabulary % 16 == 0);  // tiles of the head are whole
  static_assert(Width % 64 == 0 && Ffn % 64 == 0 && Heads % KvHeads == 0 && group <= 8);
  static_assert(q_tiles <= 4 && o_tiles <= 3 && g_tiles <= tile_warps);
  // Every exchange needs something from every block: see the kernel's head comment.
  static_assert(tiles_qkv >= blocks && tiles_width >= blocks && tiles_gate >= blocks);
  static_assert(record_out >= record_in &&
                record_ffn >= 2 * record_in);  // the head uses these slots
};

constexpr int barriers_a_warp = 6;

using smollm2_135m_rows8 = shape<576, 9, 3, 1536, 49152, 8>;
using smollm2_135m_rows10 = shape<576, 9, 3, 1536, 49152, 10>;
// For tests: odd segments, a last block with fewer tiles of the head.
using tiny_rows8 = shape<320, 6, 2, 768, 2000, 8>;
using tiny_rows10 = shape<320, 6, 2, 768, 2000, 10>;

// Feature of tile row `i` (0..15) in the order in which 16 f16 values of one row stand in a B
// fragment: place = 4 q + 2 (k >= 8) + k % 2 with q = (k % 8) / 2.
constexpr int fragment_place(int k) {
  return (k % 8) / 2 * 4 + k / 8 * 2 + k % 2;
}

// Where 16 bytes of a row, half a k16 step, stand among the hidden values of `rows` rows: those of
// a tile side by side, so that they travel as one piece, and readers meet no bank twice.
constexpr int hidden_place(int half, int row, int rows) {
  return row < 8 ? half * 128 + (row ^ 4 * half) * 16 : 256 + (half * (rows - 8) + row - 8) * 16;
}

// The same for what attention gives: 128 bytes a row and head, eight pieces of 16 (two a step), the
// rows of a head one after the other.
constexpr int attended_place(int row, int piece) {
  return row * 128 + (piece ^ row % 4 * 2) * 16;
}

// Output row `i` of tile `tile` of the fused q, k, v product. Rows i and i + 8 of a q or k tile are
// a rotary pair of the head: dims d and d + 32, or 2 p and 2 p + 1 where the model stores
// neighbours. The pairs of half h of a tile (rows 4h .. 4h+3) fill 16 bytes of a B fragment, or two
// times 8.
struct qkv_row {
  int part;  // 0 q, 1 k, 2 v
  int head;
  int dim;
};
constexpr qkv_row qkv_row_of(int tile, int i, int heads, int kv_heads, bool neighbours) {
  const int head = tile / 4, quarter = tile % 4;
  if (head >= heads + kv_heads) return {2, head - heads - kv_heads, quarter * 16 + i};
  const int half = i % 8 / 4, number = i % 4;
  int dim = 16 * (quarter / 2) + 2 * (2 * (quarter % 2) + half) + number % 2 + 8 * (number / 2) +
            32 * (i / 8);
  if (neighbours) dim = 16 * quarter + 2 * (2 * half + number / 2) + 8 * (number % 2) + i / 8;
  return head < heads ? qkv_row{0, head, dim} : qkv_row{1, head - heads, dim};
}

// Hidden feature of gate row `i` (0..7) of tile `tile`; up row i + 8 is the same feature.
constexpr int gate_feature(int tile, int i) {
  return tile / 2 * 16 + 2 * (2 * (tile % 2) + i / 4) + i % 2 + 8 * (i / 2 % 2);
}

}  // namespace foretoken::gpu::cluster
