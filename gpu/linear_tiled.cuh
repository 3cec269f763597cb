// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for many rows: a warp walks the whole of K, the four segments one after the other,
// with two sums in registers: of the segment, and of the segments before it. So all warps of a
// block share its rows and weights in shared memory, and nothing is added across warps.
// 2 N K M operations; a block of 128 n and 64 rows reads 24 KB for 524,288 products.

#include "gpu/linear.cuh"

namespace foretoken::gpu {

constexpr int tiled_stride = round_steps * 16 + 8;  // halves of a row in a stage

// WarpsN x WarpsM warps, each with RowTiles tiles of 16 n and ColumnTiles of 8 rows; a ring of
// Stages rounds; Blocks of them share a multiprocessor. Offsets of shared memory in bytes.
template <int WarpsN, int WarpsM, int RowTiles, int ColumnTiles, int Stages, int Blocks>
struct tiled_shape {
  static constexpr int warps_n = WarpsN, row_tiles = RowTiles, warp_columns = ColumnTiles;
  static constexpr int stages = Stages, blocks = Blocks;
  static constexpr int warps = WarpsN * WarpsM, threads = 32 * warps;
  static constexpr int tiles = WarpsN * RowTiles;  // of the block
  static constexpr int column_tiles = WarpsM * ColumnTiles, rows = 8 * column_tiles;
  static constexpr int fragments = tiles * round_steps / warps;        // a lane copies, a round
  static constexpr int row_pieces = rows * round_steps * 2 / threads;  // of 8 halves, likewise
  static constexpr int stage_halves = rows * tiled_stride;
  static constexpr int weights_at = Stages * stage_halves * 2;
  static constexpr int stage_weights = tiles * round_steps * slot_bytes;
  static constexpr int ring_end = weights_at + Stages * stage_weights;
  using sums = partial_sums<column_tiles, 1>;  // where the ring was
  static constexpr int scale_at = ring_end > sums::bytes(16 * tiles) ? ring_end
                                                                     : sums::bytes(16 * tiles);
  static constexpr int bytes = scale_at + rows * 4;
  static_assert(tiles * round_steps % warps == 0 && rows * round_steps * 2 % threads == 0);
};

// What one thread copies of every round.
template <weight_form Form, class Shape>
struct tiled_copies {
  const packed_matrix& w;
  const std::uint16_t* from[Shape::row_pieces];  // null: no such row
  unsigned char* slots;                          // the thread's part of the first fragment
  std::uint16_t* to;                             // and of the first row
  int first_tile, tiles, rounds;

  FORETOKEN_DEVICE tiled_copies(const linear_job& job, int first_tile, int first_row, int rounds)
      : w(job.w), first_tile(first_tile), tiles(job.w.rows / 16), rounds(rounds) {
    constexpr int row_copies = round_steps * 2;
    const int column = thread_index() % row_copies * 8;
    FORETOKEN_UNROLL
    for (int i = 0; i < Shape::row_pieces; ++i) {
      const int row = first_row + thread_index() / row_copies + i * (Shape::threads / row_copies);
      from[i] = row < job.input.rows
                    ? job.input.halves + wide(source_row(job.input, row)) * wide(rounds * 64) +
                          wide(column)
                    : nullptr;
    }
    to = reinterpret_cast<std::uint16_t*>(shared_memory()) +
         thread_index() / row_copies * tiled_stride + column;
    slots = shared_memory() + Shape::weights_at + thread_index() / 32 * slot_bytes +
            thread_index() % 32 * 16;
  }
  FORETOKEN_DEVICE void weights(int round) const {
    unsigned char* const stage = slots + round % Shape::stages * Shape::stage_weights;
    FORETOKEN_UNROLL
    for (int i = 0; i < Shape::fragments; ++i) {
      const int fragment = thread_index() / 32 + i * Shape::warps;
      const int tile = first_tile + fragment / round_steps;
      const fragment_source<Form> source(w, tile < tiles ? tile : 0, rounds * round_steps,
                                         thread_index() % 32);
      source.copy(stage + i * Shape::warps * slot_bytes,
                  round * round_steps + fragment % round_steps);
    }
  }
  FORETOKEN_DEVICE void rows(int round) const {
    std::uint16_t* const stage = to + round % Shape::stages * Shape::stage_halves;
    FORETOKEN_UNROLL
    for (int i = 0; i < Shape::row_pieces; ++i) {
      if (from[i] == nullptr) continue;
      copy_async_16(stage + i * (Shape::threads / (round_steps * 2)) * tiled_stride,
                    from[i] + round * 64);
    }
  }
};

// The sums of one warp. Adding to minus zero changes no bit.
template <int RowTiles, int ColumnTiles>
struct walked_sums {
  float segment[RowTiles][ColumnTiles][4], total[RowTiles][ColumnTiles][4];
  int step = 0, end;  // k-steps done of the segment; in a segment

  FORETOKEN_DEVICE explicit walked_sums(int steps) : end(steps) {
    each([](float& s, float& t) {
      s = 0.0f;
      t = -0.0f;
    });
  }
  template <class Change>
  FORETOKEN_DEVICE void each(const Change& change) {
    FORETOKEN_UNROLL
    for (int w = 0; w < RowTiles; ++w) {
      FORETOKEN_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) {
        FORETOKEN_UNROLL
        for (int i = 0; i < 4; ++i) change(segment[w][c][i], total[w][c][i]);
      }
    }
  }
  FORETOKEN_DEVICE void next_step() {
    if (++step < end) return;
    step = 0;
    each([](float& s, float& t) {
      t += s;
      s = 0.0f;
    });
  }
};

template <weight_form Form, class Shape, class Epilogue>
FORETOKEN_KERNEL(Shape::threads, Shape::blocks)
linear_tiled(const linear_job job, const Epilogue epilogue) {
  constexpr int row_tiles = Shape::row_tiles, columns = Shape::warp_columns;
  const int lane = thread_index() % 32;
  const int warp_n = thread_index() / 32 % Shape::warps_n;
  const int warp_m = thread_index() / 32 / Shape::warps_n;
  const int rounds = padded_columns(job.input.columns) / 64;
  const int base = block_x() * Shape::tiles;
  const int first_row = block_y() * Shape::rows;
  auto* const halves = reinterpret_cast<std::uint16_t*>(shared_memory());
  auto* const scales = reinterpret_cast<float*>(shared_memory() + Shape::scale_at);
  const tiled_copies<Form, Shape> copies(job, base, first_row, rounds);

  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Shape::stages - 1 && i < rounds; ++i) copies.weights(i);
  release_successor();
  wait_for_predecessor();
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Shape::stages - 1; ++i) {
    if (i < rounds) copies.rows(i);
    copy_async_commit();
  }
  row_scales<Shape::rows / Shape::warps> row_scale;
  row_scale.load(job.input, first_row);
  row_scale.finish(job.input, scales, first_row);
  walked_sums<row_tiles, columns> sum(rounds);  // a fourth of 4 rounds k-steps
  FORETOKEN_UNROLL_BY(1)
  for (int round = 0; round < rounds; ++round) {
    copy_async_wait<Shape::stages - 2>();
    block_sync();
    if (round + Shape::stages - 1 < rounds) {
      copies.weights(round + Shape::stages - 1);
      copies.rows(round + Shape::stages - 1);
    }
    copy_async_commit();
    const int stage = round % Shape::stages;
    const std::uint16_t* const x =
        halves + stage * Shape::stage_halves + warp_m * 8 * columns * tiled_stride;
    const unsigned char* const w = shared_memory() + Shape::weights_at +
                                   stage * Shape::stage_weights +
                                   warp_n * row_tiles * round_steps * slot_bytes + lane * 16;
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; ++k) {
      column_fragments<columns> b;
      b.load(x + k * 16, tiled_stride, lane);
      FORETOKEN_UNROLL
      for (int t = 0; t < row_tiles; ++t) {
        std::uint32_t a[4];
        fragment_source<Form>::decode(w + (t * round_steps + k) * slot_bytes, a);
        FORETOKEN_UNROLL
        for (int c = 0; c < columns; ++c) mma(sum.segment[t][c], a, b.b[c]);
      }
      sum.next_step();
    }
  }
  copy_async_wait<0>();
  block_sync();  // the sums lie where the stages were
  const typename Shape::sums sums{reinterpret_cast<float*>(shared_memory()), 16 * Shape::tiles};
  store_tile<row_tiles, columns, Shape::sums::stride>(
      sums.row(0, warp_n * row_tiles * 16) + warp_m * 8 * columns, sum.total, lane);
  block_sync();
  finish_tiles<Shape::threads, Shape::tiles>(job, epilogue, sums, scales, base, first_row);
}

}  // namespace foretoken::gpu
