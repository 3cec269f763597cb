// SPDX-License-Identifier: Apache-2.0
#pragma once
// One block of the cluster: its shared memory, its tables, its weights.

#include <cstddef>

#include "gpu/cluster_product.cuh"
#include "gpu/cluster_step.hpp"
#include "gpu/numerics.cuh"

namespace foretoken::gpu::cluster {

constexpr int threads = warps * 32;
constexpr int other_warps = warps - tile_warps;  // have no part in the FFN: row scales, prefetches
constexpr int tile_threads = tile_warps * 32;
constexpr int span_positions = 256;
constexpr int span_pages = span_positions / 16;
constexpr int spans_most = 32;  // a block attends to in one layer
constexpr int chunk_pages = 4;
constexpr int chunk_positions = chunk_pages * page_positions;
constexpr int span_chunks = span_positions / chunk_positions;
constexpr int chunk_bytes = chunk_positions * head_dim * 2;  // of keys, or of values
static_assert(spans_most * span_chunks <= 128);
constexpr int shared_most = 227 * 1024;

// Barriers of a block's parts (part_sync).
enum meeting : int {
  meet_qkv = 1,
  meet_queries,
  meet_chunks,
  meet_folded,
  meet_output,
  meet_down,
  meet_best
};

// Exchanges between blocks, in the order of a layer: each has a barrier that counts bytes.
enum exchange : int { to_attention, to_merge, to_output, to_ffn, to_down, to_next, exchanges };

// What warps hand to each other once a layer: each has a barrier that counts threads.
enum handover : int {
  attention_read,  // all to the four outside the FFN: weights of q, k, v and values are read
  scales_ready,    // these four to the twelve; once more before the head
  gate_up_read,    // the twelve to the four
  handovers
};

// A span that a block attends to: positions first .. first + 255 of a pair, up to `position`.
struct alignas(16) work_item {
  int pair, position, first;
  int slot;  // where the result goes in the block that merges the pair
};
FORETOKEN_DEVICE int chunks_of(const work_item& item) {
  return min((item.position - item.first) / chunk_positions + 1, span_chunks);
}

struct tables {
  int position[rows_most];
  int token[rows_most];
  int table[rows_most];
  int newest_page[rows_most];                // where the row's new key and value go
  int first_span[rows_most * 4 + 1];         // of a pair (row, KV head), its last one not counted
  std::uint32_t readers[rows_most * 4];      // blocks that attend to something of the pair
  std::uint32_t last_reader[rows_most * 4];  // and to its newest position
  int first_slot[rows_most * 4];             // in the block that merges the pair: pair % blocks
  work_item item[spans_most];                // this block's spans
  int spans;
  int turns;
  bool values_in_o;                      // whether values take slots of the output projection
  int first_item[spans_most + 1];        // of a turn
  std::int8_t chunk[spans_most][warps];  // item * span_chunks + its chunk; -1: none
  std::uint32_t bytes[exchanges];
  std::uint32_t clamped;
};

// Shared memory, byte offsets. The overlay holds q, new keys and values and spans on their way
// while attention runs; the hidden values of the FFN stand there and in what attention gave, which
// is multiplied before they come.
template <class S>
struct memory {
  // In this order, because results of chunks take the place of input and units while attention
  // runs.
  static constexpr int input = S::slots_end;  // B fragments
  static constexpr int units =
      input + S::steps_width * parts * step_bytes(S::rows);  // sums of q, k, v
  static constexpr int unit_floats = 16 * S::rows;
  static constexpr int chunk_ml = units + warps * unit_floats * 4;  // [items][4 chunks][8]{m, l}
  static constexpr int chunk_floats = S::group * head_dim;
  static constexpr int items_at_once = (chunk_ml - input) / (span_chunks * chunk_floats * 4);
  static constexpr int angles = chunk_ml + items_at_once * 256;  // [row][64]
  static constexpr int x = angles + S::rows * head_dim * 4;      // [tile][row][16 places]
  static constexpr int x_floats = S::o_tiles * S::rows * 16;
  static constexpr int squares = x + x_floats * 4;  // [2][row / 4][tile][4 rows]
  static constexpr int squares_floats = S::rows_in_fours * S::tiles_width;
  static constexpr int scale = squares + 2 * squares_floats * 4;  // [2][row]
  static constexpr int spans_read = S::columns == 1 ? spans_most : spans_most / 2;
  static constexpr int pages = scale + 2 * S::rows_in_fours * 4;  // [spans_read][16] page and head
  static constexpr int table = (pages + spans_read * span_pages * 4 + 15) / 16 * 16;
  static constexpr int barriers = (table + int(sizeof(tables)) + 7) / 8 * 8;
  static constexpr int output =  // B fragments
      (barriers + (warps * barriers_a_warp + exchanges + handovers) * 8 + 127) / 128 * 128;
  static constexpr int overlay = output + S::steps_out * parts * step_bytes(S::rows);

  static constexpr int query_bytes =
      steps_head * S::group * 32;                        // of a pair: [step][column][q] 8 B
  static constexpr int newest_bytes = 2 * head_dim * 2;  // of a pair: key, then value
  static constexpr int query = overlay;
  static constexpr int newest = query + S::pairs * query_bytes;
  static constexpr int spans = newest + S::pairs * newest_bytes;
  static constexpr int span_sent =
      S::group * (head_dim + 2) * 4;  // [column][64 places], [column]{m, l}
  static constexpr int span_bytes = (span_sent + 15) / 16 * 16;
  static constexpr int hidden = output;
  static constexpr int hidden_bytes = S::steps_ffn * parts * step_bytes(S::rows);
  static constexpr int span_slots = (shared_most - spans) / span_bytes;
  static constexpr int end = shared_most;
  // Sums of the twelve warps of the output projection and of down: of the first where attention has
  // read what was there, of the second where spans have been merged.
  static constexpr int output_units = query, down_units = spans;
  static constexpr int tile_units_bytes = tile_warps * unit_floats * 4;
  static_assert(output_units + tile_units_bytes <= spans && down_units + tile_units_bytes <= end);
  static constexpr int best = spans;  // [row][16 blocks], behind all layers
  static_assert(hidden + hidden_bytes <= spans && span_slots >= 2 * S::pairs / blocks);
  static_assert(S::pairs <= rows_most * 4 && items_at_once * S::group * 16 <= threads);

  // Values of the warps' chunks while attention runs: in the slots of gate-up, then in down's, and
  // where a block has more chunks in those of the output projection.
  static constexpr int values_in_g = (S::slot_d - S::slot_g) / chunk_bytes;  // in no other slot
  static constexpr int values_beside_o = (S::slots_end - S::slot_g) / chunk_bytes;
  static constexpr int chunks_at_once =
      least(warps, values_beside_o + (S::slot_g - S::slot_o) / chunk_bytes);
  static constexpr int values(int warp) {
    return S::slot_g + (warp < values_beside_o ? warp : values_beside_o - 1 - warp) * chunk_bytes;
  }
  // Places that are free only when down is multiplied, the first of warp values_in_g; the others
  // are when gate and up are.
  static constexpr int values_late = values_beside_o - values_in_g;
  static_assert(chunks_at_once >= span_chunks && values_late <= tile_warps);
};

template <class S>
struct block {
  using at = memory<S>;
  const step_arguments& job;
  const lane_rows& rows_of;
  int rank, lane, warp, thread;
  int rows;
  std::uint32_t peer[4];  // shared memory of blocks 4 (lane / 8) ..

  // None of them is negative: a quotient by a power of two is one shift then instead of four
  // instructions. The shuffle says that a warp's number is the same in its lanes, which may then be
  // computed with for all of them.
  FORETOKEN_DEVICE void forget() {
    rank = afresh(rank);
    warp = static_cast<int>(shuffle(static_cast<std::uint32_t>(afresh(warp)), 0));
    thread = afresh(thread);
    lane = thread & 31;
    __builtin_assume(rank >= 0 && rank < blocks);
    __builtin_assume(lane >= 0 && lane < 32);
    __builtin_assume(warp >= 0 && warp < warps);
    __builtin_assume(thread >= 0 && thread < threads);
  }
  FORETOKEN_DEVICE char* base() const { return reinterpret_cast<char*>(shared_memory()); }
  FORETOKEN_DEVICE float* floats(int offset) const {
    return reinterpret_cast<float*>(base() + offset);
  }
  FORETOKEN_DEVICE tables& table() const { return *reinterpret_cast<tables*>(base() + at::table); }
  FORETOKEN_DEVICE barrier* weight_barrier(int w, int which) const {
    return reinterpret_cast<barrier*>(base() + at::barriers) + w * barriers_a_warp + which;
  }
  FORETOKEN_DEVICE barrier* arrival(exchange which) const {
    return reinterpret_cast<barrier*>(base() + at::barriers) + warps * barriers_a_warp + which;
  }
  FORETOKEN_DEVICE barrier* handed(handover which) const { return arrival(exchanges) + which; }
  FORETOKEN_DEVICE std::uint32_t local(int offset) const { return shared_address(base() + offset); }

  // Tiles of this block in a matrix of `tiles`.
  FORETOKEN_DEVICE int own(int tiles) const { return (tiles - rank + blocks - 1) / blocks; }

  // One of q, k or v did not fit f16.
  FORETOKEN_DEVICE void count_clamped(float v) const {
    if (fabsf(v) <= half_largest) return;
    add_in_cluster(local(at::table + int(offsetof(tables, clamped))), 0, 1);
  }
  // To block 4 (lane / 8) + i, at the same offset as here, counted by `to`.
  FORETOKEN_DEVICE void send(int i, int offset, const u32x4& v, exchange to) const {
    store_counted(peer[i] + offset, v, peer[i] + barrier_at(to));
  }
  FORETOKEN_DEVICE static constexpr int barrier_at(exchange which) {
    return at::barriers + (warps * barriers_a_warp + which) * 8;
  }
};

// ---- weights: every warp has its own records, of q, k, v a layer ahead
// ----------------------------------

// Which of its slots a warp has records for in a layer; the head and values of attention use all.
struct duties {
  bool q, o, g, d;
};
template <class S>
FORETOKEN_DEVICE duties duties_of(const block<S>& b, int warp) {
  const bool tile_warp = warp < tile_warps;
  const bool out = tile_warp && warp / parts < b.own(S::tiles_width);
  return {warp / parts < b.own(S::tiles_qkv), out, tile_warp && warp < b.own(S::tiles_gate), out};
}
template <class S>
FORETOKEN_DEVICE duties duties_of(const block<S>& b) {
  return duties_of(b, b.warp);
}

enum class matrix : std::uint8_t { q, o, g, d };

// A warp's barriers: its records of a layer, the head's odd rounds, values of attention.
enum warp_barrier : int { q_arrives, o_arrives, g_arrives, d_arrives, odd_arrives, values_arrive };
static_assert(values_arrive < barriers_a_warp);

template <class S>
FORETOKEN_DEVICE char* slot_of_warp(const block<S>& b, int warp, matrix m) {
  switch (m) {
    case matrix::q: return b.base() + S::slot_q + warp * S::record_in;
    case matrix::o: return b.base() + S::slot_o + warp * S::record_out;
    case matrix::g: return b.base() + S::slot_g + warp * parts * S::record_in;
    default: return b.base() + S::slot_d + warp * S::record_ffn;
  }
}
template <class S>
FORETOKEN_DEVICE char* slot_of(const block<S>& b, matrix m, int segment = 0) {
  return slot_of_warp(b, b.warp, m) + segment * S::record_in;
}

// One lane: starts the copy of a warp's record of `layer` into its slot.
template <class S>
FORETOKEN_DEVICE void load_record(const block<S>& b, int warp, matrix m, int layer) {
  const std::byte* from =
      b.job.model.layers +
      (static_cast<std::size_t>(b.rank) * static_cast<std::size_t>(b.job.model.layer_count) +
       static_cast<std::size_t>(layer)) *
          S::layer_bytes;
  switch (m) {
    case matrix::q:
      return bulk_load(slot_of_warp(b, warp, m), from + S::at_q + warp * S::record_in, S::record_in,
                       b.weight_barrier(warp, q_arrives));
    case matrix::o:
      return bulk_load(slot_of_warp(b, warp, m), from + S::at_o + warp * S::record_out,
                       S::record_out, b.weight_barrier(warp, o_arrives));
    case matrix::g:
      return bulk_load(slot_of_warp(b, warp, m), from + S::at_g + warp * parts * S::record_in,
                       parts * S::record_in, b.weight_barrier(warp, g_arrives));
    default:
      return bulk_load(slot_of_warp(b, warp, m), from + S::at_d + warp * S::record_ffn,
                       S::record_ffn, b.weight_barrier(warp, d_arrives));
  }
}

// The head: a warp's tiles go round two places, the slot of G (even rounds) and those of Q, O and
// D.
template <class S>
FORETOKEN_DEVICE int head_rounds(const block<S>& b) {
  const int tiles = min(S::h_tiles, S::tiles_head - b.rank * S::h_tiles);  // of this block
  return b.warp < tile_warps && b.warp < tiles ? (tiles - b.warp + tile_warps - 1) / tile_warps : 0;
}
template <class S>
FORETOKEN_DEVICE char* head_segment(const block<S>& b, int round, int segment) {
  if (round % 2 == 0) return slot_of(b, matrix::g, segment);
  if (segment == 0) return slot_of(b, matrix::q);
  if (segment == 1) return slot_of(b, matrix::o);
  return slot_of(b, matrix::d) + (segment - 2) * S::record_in;
}
template <class S>
FORETOKEN_DEVICE void load_head_tile(const block<S>& b, int round) {
  if (round >= head_rounds(b)) return;
  const std::byte* from = b.job.model.head + wide(b.rank) * S::head_bytes +
                          wide((round * tile_warps + b.warp) * parts) * S::record_in;
  if (round % 2 == 0) {
    bulk_load(slot_of(b, matrix::g), from, parts * S::record_in,
              b.weight_barrier(b.warp, g_arrives));
    return;
  }
  barrier* const arrival = b.weight_barrier(b.warp, odd_arrives);
  barrier_expect(arrival, parts * S::record_in);
  bulk_copy(slot_of(b, matrix::q), from, S::record_in, arrival);
  bulk_copy(slot_of(b, matrix::o), from + S::record_in, S::record_in, arrival);
  bulk_copy(slot_of(b, matrix::d), from + 2 * S::record_in, 2 * S::record_in, arrival);
}

// The slots of a matrix for `layer`, once nobody reads them: four by each of the warps outside the
// FFN, which have the time.
template <class S>
FORETOKEN_DEVICE void load_slots(const block<S>& b, matrix m, int layer) {
  const int warp = (b.warp - tile_warps) * 4 + b.lane;
  const duties of = duties_of(b, warp);
  const bool used = m == matrix::q ? of.q : m == matrix::g ? of.g : of.o;
  if (b.lane < 4 && used && layer < b.job.model.layer_count) load_record(b, warp, m, layer);
  __syncwarp();
}

}  // namespace foretoken::gpu::cluster
