// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for many rows and few tiles: rows come through a ring of 64 columns a segment; four
// warps a tile, one for each segment of K, whose sums meet in shared memory. Four times the warps
// of linear_tiled.cuh for the same outputs, and four times its sums.
// 2 N K M operations; a block of 64 n and 64 rows reads 16 KB for 131,072 products.

#include "gpu/linear.cuh"

namespace foretoken::gpu {

constexpr int stage_stride = round_steps * 16 + 8;

template <int ColumnTiles>
constexpr int stage_halves() {
  return 4 * 8 * ColumnTiles * stage_stride;
}

template <int ColumnTiles, int BlockTiles, int Stages>
constexpr int streamed_weights_at() {
  return Stages * stage_halves<ColumnTiles>() * 2;
}
template <int ColumnTiles, int BlockTiles, int Stages>
constexpr int streamed_scale_at() {
  constexpr int ring = streamed_weights_at<ColumnTiles, BlockTiles, Stages>() +
                       Stages * BlockTiles * 4 * round_steps * slot_bytes;
  constexpr int sums = partial_sums<ColumnTiles>::bytes(16 * BlockTiles);
  return ring > sums ? ring : sums;
}

// What one thread copies of the rows: eight threads a row, the same rows in all segments and
// rounds. Rows that are not there stay as they are: columns of a product do not mix.
template <int Threads, int ColumnTiles>
struct streamed_rows {
  static constexpr int rows = 8 * ColumnTiles;
  static constexpr int together = Threads / 8;
  static constexpr int each = rows / together;
  const std::uint16_t* from[each];  // null: no such row
  std::uint16_t* to;
  int steps, column;

  FORETOKEN_DEVICE streamed_rows(const linear_input& in, int padded, int first_row)
      : steps(padded / 64), column(thread_index() % 8 * 8) {
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      const int row = first_row + thread_index() / 8 + i * together;
      from[i] = row < in.rows ? in.halves + wide(source_row(in, row)) * wide(padded) + wide(column)
                              : nullptr;
    }
    to = reinterpret_cast<std::uint16_t*>(shared_memory()) + thread_index() / 8 * stage_stride +
         column;
  }
  // Columns [64 round, ..) of every segment into `stage` of the ring.
  FORETOKEN_DEVICE void copy(int round, int stage) const {
    if (column >= (steps - round * round_steps) * 16) return;
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      if (from[i] == nullptr) continue;
      std::uint16_t* const there =
          to + stage * stage_halves<ColumnTiles>() + i * together * stage_stride;
      FORETOKEN_UNROLL
      for (int segment = 0; segment < 4; ++segment) {
        copy_async_16(there + segment * rows * stage_stride,
                      from[i] + (segment * steps + round * round_steps) * 16);
      }
    }
  }
};

template <weight_form Form, int RowTiles, int ColumnTiles, int Slots, int Stages, class Epilogue>
FORETOKEN_KERNEL(Slots * 128, 1)
linear_streamed(const linear_job job, const Epilogue epilogue) {
  constexpr int threads = Slots * 128;
  constexpr int block_tiles = Slots * RowTiles;
  constexpr int warp_slots = RowTiles * round_steps;
  const int lane = thread_index() % 32;
  const int segment = thread_index() / 32 % 4;
  const int slot = thread_index() / 128;
  const int tiles = job.w.rows / 16;
  const int padded = padded_columns(job.input.columns);
  const int steps = padded / 64;
  const int rounds = (steps + round_steps - 1) / round_steps;
  const int base = block_x() * block_tiles;
  const int first_row = block_y() * 8 * ColumnTiles;
  auto* const halves = reinterpret_cast<std::uint16_t*>(shared_memory());
  unsigned char* const slots = shared_memory() +
                               streamed_weights_at<ColumnTiles, block_tiles, Stages>() +
                               thread_index() / 32 * (Stages * warp_slots * slot_bytes) + lane * 16;
  auto* const scales = reinterpret_cast<float*>(
      shared_memory() + streamed_scale_at<ColumnTiles, block_tiles, Stages>());

  fragment_source<Form> sources[RowTiles];
  FORETOKEN_UNROLL
  for (int w = 0; w < RowTiles; ++w) {
    const int tile = base + slot * RowTiles + w;
    sources[w] = {job.w, tile < tiles ? tile : 0, steps * 4, lane};
  }
  const streamed_rows<threads, ColumnTiles> rows(job.input, padded, first_row);
  const auto copy_weights = [&](int round) {
    FORETOKEN_UNROLL
    for (int w = 0; w < RowTiles; ++w) {
      FORETOKEN_UNROLL
      for (int k = 0; k < round_steps; ++k) {
        const int step = round * round_steps + k;
        if (step >= steps) break;
        sources[w].copy(slots + ((round % Stages * RowTiles + w) * round_steps + k) * slot_bytes,
                        segment * steps + step);
      }
    }
  };
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Stages - 1 && i < rounds; ++i) copy_weights(i);
  wait_for_predecessor();
  release_successor();
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Stages - 1; ++i) {
    if (i < rounds) rows.copy(i, i);
    copy_async_commit();
  }
  row_scales<8 * ColumnTiles, threads> row_scale;
  row_scale.load(job.input, first_row);
  row_scale.finish(job.input, scales, first_row);
  float sum[RowTiles][ColumnTiles][4] = {};
  FORETOKEN_UNROLL_BY(1)
  for (int round = 0; round < rounds; ++round) {
    copy_async_wait<Stages - 2>();
    block_sync();
    if (round + Stages - 1 < rounds) {
      const int next = round + Stages - 1;
      copy_weights(next);
      rows.copy(next, next % Stages);
    }
    copy_async_commit();
    const std::uint16_t* const stage = halves + round % Stages * stage_halves<ColumnTiles>() +
                                       segment * 8 * ColumnTiles * stage_stride;
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; ++k) {
      if (round * round_steps + k >= steps) break;
      column_fragments<ColumnTiles> b;
      b.load(stage + k * 16, stage_stride, lane);
      FORETOKEN_UNROLL
      for (int w = 0; w < RowTiles; ++w) {
        std::uint32_t a[4];
        fragment_source<Form>::decode(
            slots + ((round % Stages * RowTiles + w) * round_steps + k) * slot_bytes, a);
        FORETOKEN_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) mma(sum[w][c], a, b.b[c]);
      }
    }
  }
  copy_async_wait<0>();
  block_sync();  // the sums lie where the stages were
  const partial_sums<ColumnTiles> sums{reinterpret_cast<float*>(shared_memory()), 16 * block_tiles};
  store_sums<RowTiles, ColumnTiles>(sums, sum, segment, slot * RowTiles * 16, lane);
  block_sync();
  finish_tiles<threads, block_tiles>(job, epilogue, sums, scales, base, first_row);
}

}  // namespace foretoken::gpu
