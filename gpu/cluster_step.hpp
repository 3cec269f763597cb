// SPDX-License-Identifier: Apache-2.0
#pragma once
// The cluster-resident decode path: one launch computes a whole step of a small model, from token
// ids to sampled tokens, on one cluster of 16 multiprocessors a lane. Plain C++; no CUDA type but
// the stream.
//
// A LANE is one cluster with its own micro-batch of 1..rows_max rows, one token a row. Lanes share
// weights and the KV pool; a page that a lane writes belongs to one sequence. A launch carries one
// or more lanes; launches on different streams run side by side while clusters fit (7 on an H100).
// Every row has the bits it would have alone, in any lane, and those of the general path
// (numerics.cuh).
//
// Ring: ring[slot][row] in pinned host memory (or any memory the device can write) receives one
// ring_record a row. `step` is stored last, with release at system scope: a reader that sees the
// step number it waits for may read the rest. The writer never waits; a slot may be reused when its
// records were read, so a ring of two slots serves two steps in flight.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "gpu/kernels.hpp"
#include "model/hyperparameters.hpp"

namespace foretoken::gpu::cluster {

// Which shapes are compiled in.
enum class model_shape : std::uint8_t { smollm2_135m, tiny };

struct limits {
  int rows_max = 0;  // of a lane
  int kv_heads = 0;
  // Of 256 positions: the most that one block attends to, and the most for all sequences whose
  // attention one block merges.
  int spans_read_max = 0, spans_max = 0;
  int shared_bytes = 0;  // of a block
};
// Of a launch whose lanes have up to `rows` rows.
limits limits_of(model_shape shape, int rows);

// The compiled shape of a model that this path can run, or why it cannot. Needs 4-bit codes for all
// matrices, RMS norms, gated SiLU, heads of 64, no windows, no soft caps, no biases, no post norms.
result<model_shape> shape_for(const model::hyperparameters& shape);

// A matrix as codes: weight = round_to_f16(scale * code + minimum), groups of 32 columns.
struct coded_matrix {
  std::span<const std::uint8_t> codes;     // [rows][columns], 0..15
  std::span<const std::uint16_t> scale;    // [rows][columns / 32], f16
  std::span<const std::uint16_t> minimum;  // [rows][columns / 32], f16
};
struct coded_layer {
  coded_matrix q, k, v, o, gate, up, down;
};

// Streams for device memory, 16-byte aligned: [16 blocks][layers][layer_bytes] and
// [16 blocks][head_bytes]. Packing one layer, or one block of the head, writes nothing else.
std::size_t layer_stream_bytes(model_shape shape, int layers);
std::size_t head_stream_bytes(model_shape shape);
struct layer_place {
  int layer = 0, layers = 0;
};
void pack_layer(model_shape shape,
                const coded_layer& from,
                bool rope_neighbours,
                layer_place place,
                std::span<std::byte> streams);
void pack_head(model_shape shape,
               const coded_matrix& head,
               int block,
               std::span<std::byte> streams);

// Device memory, constant while steps run.
struct weights {
  const std::byte* layers = nullptr;
  const std::byte* head = nullptr;  // null: the general path's head follows (step_arguments)
  packed_matrix embedding;          // the general path's own
  const float* gains =
      nullptr;  // [2 layers + 1][width]: attention and FFN norm of each, final norm
  const float* angles = nullptr;  // [context][64]: 32 cosines, then 32 sines
  int layer_count = 0;
  float norm_epsilon = 0;
  float query_scale = 0;
  float embedding_scale = 1;
  bool rope_neighbours = false;
};

struct ring_record {
  std::int32_t token;
  float logit;            // of `token`
  std::uint32_t clamped;  // values of q, k, v in this row's lane that did not fit f16; 0 is normal
  std::uint32_t step;     // written last
};

// Steps of up to this many rows, of all lanes, whose logits are wanted end faster with the general
// path's head, which has all multiprocessors for them, than with that of the launch, which has 16 a
// lane: 1 row 337 us instead of 355, 32 rows 517 instead of 526, 56 rows 557 instead of 555
// (commit 894c05a, cluster_step_bench --head, context 512, H100, 2026-11-24).
constexpr int general_head_rows = 32;

constexpr int lane_rows_few = 8;  // beyond them a step is slower and its sequences are shorter
constexpr int lane_rows_most = 10;
constexpr int lanes_at_once = 7;  // of a launch
struct lane_rows {
  int rows = 0;
  int first = 0;           // its first row's place in `normed` and `squares`
  std::uint32_t step = 0;  // marks the ring records; never the value before
  std::int32_t token[lane_rows_most];
  std::int32_t position[lane_rows_most];
  std::int32_t table[lane_rows_most];  // row of `pages`
  float* logits = nullptr;             // [rows][vocabulary] device memory; null = not wanted
  ring_record* ring = nullptr;         // [rows] of this step's slot; may be null
};

struct step_arguments {
  weights model;
  std::uint16_t* kv = nullptr;  // [layer][page][kv_head][2][16 * 64] f16, zero at start
  int pages = 0;                // of the pool
  const std::int32_t* page_tables = nullptr;  // [tables][table_stride]
  int table_stride = 0;
  // Where the input of the general path's head goes, or null: the step ends with its own head. f16
  // of x times the final norm [rows of all lanes][normed_stride], sums of squares [..][width / 16].
  std::uint16_t* normed = nullptr;
  int normed_stride = 0;
  float* squares = nullptr;
  // Starts while the kernel before it on the stream ends; weights alone are read before its end.
  bool dependent = false;
  int lanes = 0;
  lane_rows lane[lanes_at_once];
  std::uint32_t* clamped = nullptr;  // device counter of such values of all lanes; may be null
  long long* cycles = nullptr;       // [64] clock at each phase of one layer; null = off
};

// Whether the device of this number has clusters of 16 blocks at all; needs no context.
bool supported(int ordinal);
// Raises the shared memory limit; once a device, before the question below and the first launch.
status prepare(model_shape shape);
// Clusters of this shape that run at once on the current device: 0 where a limit on its
// multiprocessors, or the part of it that there is, leaves no 16 beside each other.
result<int> lanes_of_device(model_shape shape);
// Whether one lane can hold rows at these positions: 1..rows_max of them, not too long together.
bool lane_fits(const limits& most, std::span<const std::int32_t> positions);
// Whether each lane of a launch can hold its rows.
bool lanes_fit(model_shape shape, std::span<const lane_rows> lanes);
// The most rows of one of them.
int fullest(std::span<const lane_rows> lanes);
// Queues the step. REQUIRES 1..rows_max rows in each lane, positions within `angles` and the
// tables.
status launch(model_shape shape, const step_arguments& step, CUstream_st* stream);

}  // namespace foretoken::gpu::cluster
