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
  static constexpr int scale_at = weights_at + Stages * stage_weights;
  static constexpr int bytes = scale_at + rows * 4;
  static_assert(warps % round_steps == 0);
  static_assert(tiles * round_steps % warps == 0 && rows * round_steps * 2 % threads == 0);
};

// What one thread copies of every round.
template <weight_form Form, class Shape>
struct tiled_copies {
  fragment_source<Form> source[Shape::fragments];
  const std::uint16_t* from[Shape::row_pieces];  // null: no such row
  unsigned char* slots;                          // the thread's part of the first fragment
  std::uint16_t* to;                             // and of the first row

  FORETOKEN_DEVICE tiled_copies(const linear_job& job, int first_tile, int first_row, int rounds) {
    constexpr int row_copies = round_steps * 2;
    FORETOKEN_UNROLL
    for (int i = 0; i < Shape::fragments; ++i) {
      const int tile = first_tile + (thread_index() / 32 + i * Shape::warps) / round_steps;
      source[i] = {job.w, tile * 16 < job.w.rows ? tile : 0, rounds * round_steps,
                   thread_index() % 32};
    }
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
    const int step = round * round_steps + thread_index() / 32 % round_steps;
    FORETOKEN_UNROLL
    for (int i = 0; i < Shape::fragments; ++i) {
      source[i].copy(stage + i * Shape::warps * slot_bytes, step);
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

// What one warp multiplies in a k-step.
template <weight_form Form, int RowTiles, int ColumnTiles>
struct step_fragments {
  std::uint32_t a[RowTiles][4];
  column_fragments<ColumnTiles> b;
  // Of step k of a round; the lane's part of the warp's weights, the warp's rows.
  FORETOKEN_DEVICE void load(const unsigned char* w, const std::uint16_t* x, int k, int lane) {
    b.load(x + k * 16, tiled_stride, lane);
    FORETOKEN_UNROLL
    for (int t = 0; t < RowTiles; ++t) {
      fragment_source<Form>::decode(w + (t * round_steps + k) * slot_bytes, a[t]);
    }
  }
  FORETOKEN_DEVICE void multiply(float (&sum)[RowTiles][ColumnTiles][4]) const {
    FORETOKEN_UNROLL
    for (int t = 0; t < RowTiles; ++t) {
      FORETOKEN_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) mma(sum[t][c], a[t], b.b[c]);
    }
  }
};

// Out of registers: a lane has features g = lane / 4 and g + 8 of rows 2 (lane % 4) and the next of
// every column tile. Four items at a time, their reads side by side.
template <int RowTiles, int ColumnTiles, class Epilogue>
FORETOKEN_DEVICE void finish_sums(const linear_job& job,
                                  const Epilogue& epilogue,
                                  const float (&sum)[RowTiles][ColumnTiles][4],
                                  const float* scales,
                                  int first_tile,
                                  int first_row) {
  const int lane = thread_index() % 32;
  const float* const scale = scales + lane % 4 * 2;
  FORETOKEN_UNROLL_BY(1)  // half the code: it is fetched anew for every block
  for (int t = 0; t < RowTiles; ++t) {
    float mine[ColumnTiles][4];
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) {
      FORETOKEN_UNROLL
      for (int i = 0; i < 4; ++i) {
        mine[c][i] = sum[0][c][i];
        FORETOKEN_UNROLL
        for (int u = 1; u < RowTiles; ++u) mine[c][i] = t == u ? sum[u][c][i] : mine[c][i];
      }
    }
    const int tile = first_tile + t;
    const bool there = tile * 16 < job.w.rows;
    const int n = tile * 16 + lane / 4;
    float factor[2] = {1, 1}, bias[2] = {0, 0};
    const bool scaled = job.w.row_scale != nullptr;
    const bool biased = job.w.bias != nullptr;
    FORETOKEN_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (there && scaled) factor[h] = job.w.row_scale[n + 8 * h];
      if (there && biased) bias[h] = job.w.bias[n + 8 * h];
    }
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; c += 2) {
      epilogue_item item[4];
      typename Epilogue::kept kept[4] = {};
      FORETOKEN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + 8 * (c + i / 2) + lane % 4 * 2 + i % 2;
        item[i] = {tile, lane / 4, row, there && row < job.input.rows};
        epilogue.before_wait(item[i], kept[i]);
        epilogue.after_wait(item[i], kept[i]);
      }
      FORETOKEN_UNROLL
      for (int i = 0; i < 4; ++i) {
        float y[2];
        FORETOKEN_UNROLL
        for (int h = 0; h < 2; ++h) {
          y[h] = mine[c + i / 2][i % 2 + 2 * h] * scale[8 * (c + i / 2) + i % 2];
          if (scaled) y[h] *= factor[h];
          if (biased) y[h] += bias[h];
        }
        epilogue.template pair<4>(item[i], kept[i], y[0], y[1]);
      }
    }
  }
}

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
  wait_for_predecessor();
  release_successor();
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Shape::stages - 1; ++i) {
    if (i < rounds) copies.rows(i);
    copy_async_commit();
  }
  row_scales<Shape::rows, Shape::threads> row_scale;
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
    step_fragments<Form, row_tiles, columns> fragments[2];  // the next before this one's products
    fragments[0].load(w, x, 0, lane);
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; ++k) {
      if (k + 1 < round_steps) fragments[(k + 1) % 2].load(w, x, k + 1, lane);
      fragments[k % 2].multiply(sum.segment);
      sum.next_step();
    }
  }
  copy_async_wait<0>();
  finish_sums<row_tiles, columns>(job, epilogue, sum.total, scales + warp_m * 8 * columns,
                                  base + warp_n * row_tiles, first_row + warp_m * 8 * columns);
}

}  // namespace foretoken::gpu
