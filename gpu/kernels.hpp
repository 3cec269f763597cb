// SPDX-License-Identifier: Apache-2.0
#pragma once
// The launch functions of the general path: plain C++, no CUDA type but the stream.
//
// A step is: embed; per layer attention_input, attention, attention_output, ffn_input, ffn_output;
// head; digest, draw. Every pointer is device memory unless its comment says otherwise; every array
// is 16-byte aligned. Launches only queue work: they allocate nothing, wait for nothing and can be
// captured in a graph. A row's bits depend on its own sequence only (docs: numerics.cuh); rows
// beyond those wanted (a batch padded to its bucket) must point at a page that nobody reads.
//
// Kernels are launched with programmatic dependent launch when `dependent` is set: each loads
// weights before it waits for its predecessor, and nothing but weights. Whatever else writes
// weights must be finished before the first launch.

#include <cstddef>
#include <cstdint>

#include "base/result.hpp"
#include "gpu/kv_form.hpp"
#include "model/adjustments.hpp"
#include "model/hyperparameters.hpp"

struct CUstream_st;

namespace foretoken::gpu {

using stream_handle = CUstream_st*;

// The kernel of a product of many rows, n x rows a block (linear_launch.cuh): a choice of speed
// only. Tests and benches name one; everybody else leaves it `chosen`.
enum class product_tile : std::uint8_t {
  chosen,
  streamed_16x32_shallow,
  streamed_16x32,
  streamed_16x32_deep,
  streamed_32x64,
  streamed_64x64,
  tiled_64x64,
  tiled_128x64,
  split_64x32,  // these by the wide matrix instruction
  split_64x64,
  quad_64x32,
  quad_64x64,
  quad_64x96,
  wide_128x64,
  wide_128x128,
};

struct launch_context {
  stream_handle stream = nullptr;
  int multiprocessors = 132;
  int shared_bytes_max = 227 << 10;  // of a block, as the device allows on request (8.0: 163 KB)
  bool dependent = true;  // false for the first kernel after work that is no kernel of ours
  product_tile tile = product_tile::chosen;
  bool wide_mma = false;  // the device has the wide matrix instruction: compute capability 9.0
};

// ---- weights -----------------------------------------------------------------------------------

// f16: 512 bytes a k-step of a tile. w8 and w4: codes with a scale and a minimum a group of 32
// columns; the product sees round_to_f16(scale * code + minimum), the same f16 the first form
// holds.
enum class weight_form : std::uint8_t { f16, w8, w4 };

// A matrix as packing.hpp lays it out: tiles of 16 rows; columns padded with zeros to whole 64s.
struct packed_matrix {
  const void* codes = nullptr;            // [rows/16][columns_padded/16][32 lanes][8 values]
  const std::uint32_t* scales = nullptr;  // w8, w4: [rows/16][columns_padded/32][16] f16 pairs
  const float* row_scale = nullptr;       // [rows] powers of two; null = 1
  const float* bias = nullptr;            // [rows]; null = 0
  int rows = 0;                           // of the packed matrix: whole 16s
  int columns = 0;                        // as in the model
  weight_form form = weight_form::f16;
};
constexpr int padded_columns(int columns) {
  return (columns + 63) / 64 * 64;
}

struct norm_parameters {
  const float* weight = nullptr;  // [width]; null = no norm
  const float* bias = nullptr;    // [width]; layer norm only, may be null
  float epsilon = 0;
  model::norm_kind kind = model::norm_kind::rms;
  // The input of the product is kept in f16 as x * weight * 2^-range: 0, or more where a model's
  // residual stream times its weights comes near 65,504. The scale of a row is applied afterwards.
  int range = 0;
};

// ---- a step's rows -----------------------------------------------------------------------------

struct step_rows {
  const std::int32_t* token = nullptr;     // [rows]
  const std::int32_t* position = nullptr;  // [rows]
  const std::int32_t* table = nullptr;     // [rows] which page table
  const std::int32_t* pages = nullptr;     // [tables][table_stride]; page i = positions 16i..16i+15
  int table_stride = 0;
  int rows = 0;
};

// Rows [first, first + count) are consecutive positions of one sequence. The query heads of one KV
// head times `count` must fit the tile's columns (attention_tile_rows); count = 0: nothing to do.
struct attention_tile {
  std::int32_t first = 0;
  std::int32_t count = 0;
};
constexpr int query_columns = 8;
// Most rows of one tile; 1 when a group has more heads than there are columns.
constexpr int attention_tile_rows(int heads, int kv_heads, int columns = query_columns) {
  const int group = heads / kv_heads;
  return group >= columns ? 1 : columns / group;
}

constexpr int attention_chunk = 64;  // positions of one softmax
constexpr int attention_span = 256;  // positions folded before spans are
constexpr int attention_spans(int context) {
  return (context + attention_span - 1) / attention_span;
}

// The pool: [layer][page][kv_head][kv_head_values], keys then values, each in the order of an MMA A
// fragment (numerics.cuh). REQUIRES zeros at the start: what was never written is multiplied by a
// weight of zero.
struct kv_pool_view {
  std::uint16_t* base = nullptr;
  int pages = 0;
  int kv_heads = 0;
  int head_dim = 0;  // a multiple of 16, at most 256
  kv_form form = kv_form::f16;
  constexpr std::size_t page_values() const {
    return static_cast<std::size_t>(kv_heads) * kv_head_values(form, head_dim);
  }
  constexpr std::size_t layer_values() const {
    return page_values() * static_cast<std::size_t>(pages);
  }
};

// ---- memory the kernels share ------------------------------------------------------------------

// Taken once for rows_max rows; REQUIRES zeros at the start. Rows of f16 inputs are as long as
// whole 64 columns; nobody writes the padding.
struct workspace {
  float* x = nullptr;                 // [rows][width]
  std::uint16_t* normed = nullptr;    // [rows][padded width] f16 of x times the next norm's weight
  float* squares = nullptr;           // [rows][square_tiles(width)] sums of x * x
  std::uint16_t* q = nullptr;         // [rows][heads * head_dim] f16, scaled
  std::uint16_t* attended = nullptr;  // [rows][padded heads * head_dim] f16
  std::uint16_t* hidden = nullptr;    // [rows][padded ffn] f16
  float* raw = nullptr;               // [rows][max(qkv rows, width)] before norms of heads, codes
  float* partial = nullptr;           // attention spans waiting for their merge
  std::uint32_t* arrived = nullptr;   // [tiles][kv_heads * column groups]
  std::uint32_t* kv_saturated = nullptr;  // [1] values clamped to the f16 range; may be null
};
constexpr int square_tiles(int width) {
  return (width + 15) / 16;
}
struct workspace_sizes {  // bytes of each member
  std::size_t x, normed, squares, q, attended, hidden, raw, partial, arrived;
};
// `tile_spans`: attention tiles of one launch times its spans_max, at most. No launch has more
// tiles than rows_max.
workspace_sizes workspace_bytes(const model::hyperparameters& shape, int rows_max, int tile_spans);

// ---- the operations ----------------------------------------------------------------------------

struct embed_arguments {
  step_rows rows;
  packed_matrix table;      // rows in the model's order
  packed_matrix positions;  // codes null = none
  float scale = 1;
  workspace work;             // x, normed and squares are written
  norm_parameters next_norm;  // that of the first layer's attention
};
status launch_embed(const launch_context& on, const embed_arguments& given);

struct attention_input_arguments {
  step_rows rows;
  workspace work;
  norm_parameters norm;
  packed_matrix qkv;  // qkv_order(); bias in the same order
  int heads = 0, kv_heads = 0, head_dim = 0;
  const float* angles = nullptr;  // [context][2 * pairs] cosines, then sines; null = no rope
  int pairs = 0;                  // rotated pairs of a head: head_dim / 2, or fewer in whole 8s
  bool rope_neighbours = false;
  const float* q_norm = nullptr;  // [head_dim]; null = none
  const float* k_norm = nullptr;
  float head_norm_epsilon = 0;
  float query_scale = 1;
  std::uint16_t* kv = nullptr;  // this layer's part of the pool
  kv_form form = kv_form::f16;
};
// q, and k and v into the pages. `norm`: the one that `next_norm` announced.
status launch_attention_input(const launch_context& on, const attention_input_arguments& given);

struct attention_arguments {
  step_rows rows;
  workspace work;
  const attention_tile* tiles = nullptr;  // [tile_count]
  int tile_count = 0;
  // Of a tile: query_columns; or 64 or 128, large tiles, where has_large_tiles() says so
  // (attention_tiles.hpp). Those come best in order of their work; their rows may also have one
  // position all, as rows that pad have.
  int columns = query_columns;
  int spans_max = 1;      // grid: attention_spans(longest position + 1), or more
  int positions_max = 0;  // REQUIRES that no row's position is this or more; 0 = not known
  int heads = 0, kv_heads = 0, head_dim = 0;
  int window = 0;     // 0 = all earlier positions
  float softcap = 0;  // 0 = none
  const std::uint16_t* kv = nullptr;
  kv_form form = kv_form::f16;
};
status launch_attention(const launch_context& on, const attention_arguments& given);

struct residual_arguments {
  int rows = 0;
  workspace work;
  packed_matrix matrix;  // rows = width (padded to 16), columns = those of the input
  int width = 0;
  norm_parameters post_norm;  // weight null = none
  norm_parameters next_norm;  // of whatever reads x next
};
// x += post_norm(W attended + b)
status launch_attention_output(const launch_context& on, const residual_arguments& given);
// x += post_norm(W hidden + b)
status launch_ffn_output(const launch_context& on, const residual_arguments& given);

struct ffn_input_arguments {
  int rows = 0;
  workspace work;
  norm_parameters norm;
  packed_matrix matrix;  // gated: gate_up_order(); else plain_order(), with bias
  int ffn = 0;
  model::activation_kind activation = model::activation_kind::silu_gate;
};
status launch_ffn_input(const launch_context& on, const ffn_input_arguments& given);

// Where the best logit of a row gathers while the head computes them, in the digest's scratch: a
// row has best_places of them, [order of the logit, complement of its id].
constexpr int best_places = 32;
struct best_logits {
  std::uint64_t* at = nullptr;
  std::size_t stride = 0;  // from row to row
  int vocabulary = 0;
};
best_logits best_logits_in(void* digest_scratch, int vocabulary);

struct head_arguments {
  int rows = 0;                         // rows of logits wanted
  const std::int32_t* which = nullptr;  // [rows] their rows of x
  int rows_of_x = 0;                    // of the step; needed with a layer norm only
  workspace work;
  norm_parameters norm;
  packed_matrix matrix;  // plain_order(vocabulary)
  float softcap = 0;
  float* logits = nullptr;  // [rows][matrix.rows]
  best_logits best{};       // instead of logits, where nobody wants more of them
};
status launch_head(const launch_context& on, const head_arguments& given);

// What most requests need of a row of logits.
constexpr int digest_top = 32;
struct logits_digest {
  float log_sum_exp = 0;  // of all logits
  std::int32_t count =
      0;  // entries of `id`: min(top, vocabulary); 0: a NaN or infinity stood there
  std::int32_t id[digest_top];  // best first, ties by lower id
  float logit[digest_top];
};
// *flag = *number, seen by the host after everything that earlier launches wrote.
struct announce_arguments {
  const std::uint32_t* number = nullptr;
  std::uint32_t* flag = nullptr;  // pinned host memory
};
struct digest_arguments {
  int rows = 0;
  const float* logits = nullptr;  // [rows][stride]
  int vocabulary = 0;  // up to 400,000 with 32 entries where a block has 99 KB of shared memory
  int stride = 0;
  int top = 1;              // 1..digest_top; 0: the best id and logit alone, of a head's `best`
  void* scratch = nullptr;  // digest_scratch_bytes(rows, vocabulary), zero before its first launch
  logits_digest* digests = nullptr;  // [rows]; may be pinned host memory
  std::int32_t* token = nullptr;     // [rows] the best id again, for the next step; may be null
  announce_arguments end{};          // when all rows are there; flag null = nobody waits
};
std::size_t digest_scratch_bytes(int rows, int vocabulary);
status launch_digest(const launch_context& on, const digest_arguments& given);
// A word that is zero between launches, for the launch that tells the host in the digest's place.
std::uint32_t* rows_arrived_in(void* digest_scratch);

// Most tokens of a row that are put in order, and that are adjusted: with more, the row is the
// host's to draw.
constexpr int draw_candidates = 4096;
constexpr int draw_adjustments = 1024;
constexpr int draw_vocabulary = 1 << 20;

// How one row draws: in pinned host memory, read by the device as it stands.
struct alignas(16) draw_parameters {
  double uniform = 0;         // model::uniform() of the seed and position
  float temperature = 0;      // 0: the largest
  float top_p = 1;            // 1 = off
  float min_p = 0;            // 0 = off
  std::int32_t top_k = 0;     // 0 = off
  std::int32_t adjusted = 0;  // entries of draw_request::adjustments
  std::int32_t draws = 0;     // 0: nobody wants a token of this row
};
struct draw_request {
  draw_parameters how;
  model::adjustment adjustments[draw_adjustments];  // each id once
};
struct drawn_token {
  std::int32_t id = 0;  // or one of those below
  float logit = 0;      // as it was before adjustments
};
constexpr std::int32_t drawn_broken = -1;   // a NaN or infinity stood in the logits
constexpr std::int32_t drawn_by_host = -2;  // left to it: too many candidates, or rounding

struct draw_arguments {
  int rows = 0;
  float* logits = nullptr;  // [rows][stride]; adjusted while a row is drawn, then as before
  int vocabulary = 0;       // at most draw_vocabulary
  int stride = 0;
  const draw_request* requests = nullptr;  // [rows], pinned host memory
  drawn_token* drawn = nullptr;            // [rows]; may be pinned host memory
  std::uint32_t* arrived = nullptr;        // rows_arrived_in(); needed where somebody waits
  announce_arguments end{};                // when all rows are there; flag null = nobody waits
};
// The token of each row that model::sample() draws from the same logits, bit for bit.
status launch_draw(const launch_context& on, const draw_arguments& given);

// A step's inputs out of pinned host memory, read by the device: a part of the recorded step, where
// a copy before it would cost the device a stop of some microseconds.
struct take_inputs_arguments {
  const void* from = nullptr;  // pinned host memory, 16-byte aligned
  void* to = nullptr;
  std::size_t bytes = 0;  // whole 16s
};
status launch_take_inputs(const launch_context& on, const take_inputs_arguments& given);

status launch_announce(const launch_context& on, const announce_arguments& given);

struct page_copy_arguments {
  kv_pool_view pool;
  int layers = 0;
  const std::int32_t* pairs = nullptr;  // [count][2] from, to
  int count = 0;
};
// Whole pages: what lies beyond the copied positions is never read before it is written.
status launch_page_copies(const launch_context& on, const page_copy_arguments& given);

}  // namespace foretoken::gpu
