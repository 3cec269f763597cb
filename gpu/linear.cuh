// SPDX-License-Identifier: Apache-2.0
#pragma once
// y[row][n] = sum over k of W[n][k] x[row][k], and what follows it (an epilogue), in kernels with
// the same bits: linear_resident.cuh for few rows; linear_streamed.cuh and linear_tiled.cuh for
// more; linear_split.cuh, linear_quad.cuh and linear_wide.cuh with the wide matrix instruction.
// What they share is here.
//
// Weights are the A operand: a tile of 16 n, a k-step of 16; rows of x are the 8 columns of B. K is
// cut in four segments whose sums are added in order, whoever computes them (numerics.cuh). Weights
// go from memory to shared memory before the predecessor is done.

#include "gpu/linear_input.cuh"
#include "gpu/weight_stream.cuh"

namespace foretoken::gpu {

struct linear_job {
  linear_input input;
  packed_matrix w;
  int rounds = 0;  // of weights under way in linear_resident; its launch chooses
};

// ---- the product of one warp

// B fragments of one k-step, from rows of f16 in shared memory.
template <int ColumnTiles>
struct column_fragments {
  std::uint32_t b[ColumnTiles][2];
  FORETOKEN_DEVICE void load(const std::uint16_t* halves, int stride, int lane) {
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; c += 2) {
      std::uint32_t both[4];
      load_matrices_4(both,
                      halves + (8 * c + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
      b[c][0] = both[0];
      b[c][1] = both[1];
      b[c + 1][0] = both[2];
      b[c + 1][1] = both[3];
    }
  }
};
// One column tile: two k-steps at once. The second may lie beyond the row; it is not used then.
// Only rows that are there are held: in their place a lane's address is the last one's, whose
// columns of the product nobody reads.
template <>
struct column_fragments<1> {
  std::uint32_t b[2][2];
  // The lane's part of offset 0.
  FORETOKEN_DEVICE static int place(int rows, int stride, int lane) {
    return (lane % 8 < rows ? lane % 8 : rows - 1) * stride + lane / 8 * 8;
  }
  FORETOKEN_DEVICE void load(const std::uint16_t* mine) {
    std::uint32_t both[4];
    load_matrices_4(both, mine);
    b[0][0] = both[0];
    b[0][1] = both[1];
    b[1][0] = both[2];
    b[1][1] = both[3];
  }
};

// Sums [part][row of the block's tiles][column + padding]: a part is a segment, or all four added.
template <int ColumnTiles, int Parts = 4>
struct partial_sums {
  static constexpr int stride = 8 * ColumnTiles + 4;  // eight rows, four columns: 32 banks
  float* at;
  int block_rows;  // 16 * tiles of the block
  FORETOKEN_DEVICE float* row(int part, int r) const {
    return at + (part * block_rows + r) * stride;
  }
  static constexpr int bytes(int rows) { return Parts * rows * stride * 4; }
};

template <int RowTiles, int ColumnTiles, int Stride>
FORETOKEN_DEVICE void store_tile(float* to,
                                 const float (&sum)[RowTiles][ColumnTiles][4],
                                 int lane) {
  FORETOKEN_UNROLL
  for (int w = 0; w < RowTiles; ++w) {
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) {
      float* p = to + (16 * w + lane / 4) * Stride + 8 * c + lane % 4 * 2;
      *reinterpret_cast<f32x2*>(p) = f32x2{sum[w][c][0], sum[w][c][1]};
      *reinterpret_cast<f32x2*>(p + 8 * Stride) = f32x2{sum[w][c][2], sum[w][c][3]};
    }
  }
}

template <int RowTiles, int ColumnTiles>
FORETOKEN_DEVICE void store_sums(const partial_sums<ColumnTiles>& to,
                                 const float (&sum)[RowTiles][ColumnTiles][4],
                                 int segment,
                                 int first_row,
                                 int lane) {
  store_tile<RowTiles, ColumnTiles, partial_sums<ColumnTiles>::stride>(to.row(segment, first_row),
                                                                       sum, lane);
}

// What a thread's item of the epilogue is: features 16 tile + g and 8 more of one row.
struct epilogue_item {
  int tile, g, row;
  bool wanted;
};

template <int ColumnTiles>
FORETOKEN_DEVICE epilogue_item
item_of(const linear_job& job, int i, int first_tile, int first_row) {
  constexpr int columns = 8 * ColumnTiles;
  const int tile = first_tile + i / columns;
  const int row = first_row + i % columns;
  return {tile, thread_index() % 8, row, row < job.input.rows && tile * 16 < job.w.rows};
}

// The sum over segments of value (item, h), scaled and biased.
template <int ColumnTiles, int Parts>
FORETOKEN_DEVICE float finished(const linear_job& job,
                                const partial_sums<ColumnTiles, Parts>& sums,
                                const float* scales,
                                const epilogue_item& item,
                                int first_tile,
                                int first_row,
                                int h) {
  const int r = (item.tile - first_tile) * 16 + item.g + 8 * h;
  const int column = item.row - first_row;
  const int n = item.tile * 16 + item.g + 8 * h;
  float v = sums.row(0, r)[column];
  FORETOKEN_UNROLL
  for (int part = 1; part < Parts; ++part) v += sums.row(part, r)[column];
  v *= scales[column];
  if (item.wanted && job.w.row_scale != nullptr) v *= job.w.row_scale[n];
  if (item.wanted && job.w.bias != nullptr) v += job.w.bias[n];
  return v;
}

// An epilogue has a type `kept` for what it reads early: before_wait what the step's inputs and the
// weights say, after_wait what kernels before it wrote; pair<Apart>() then takes both sums. The
// eight g of a tile and row are in lanes Apart apart, 1 or 4; all lanes of a warp come along, also
// for rows that are not there.
// Four items at a time, their reads side by side: one after the other costs a memory latency each.
template <int Threads, int Tiles, int ColumnTiles, int Parts, class Epilogue>
FORETOKEN_DEVICE void finish_tiles(const linear_job& job,
                                   const Epilogue& epilogue,
                                   const partial_sums<ColumnTiles, Parts>& sums,
                                   const float* scales,
                                   int first_tile,
                                   int first_row) {
  constexpr int each = Tiles * 8 * ColumnTiles * 8 / Threads;  // items of a thread
  constexpr int together = each < 4 ? each : 4;
  static_assert(each % together == 0);
  FORETOKEN_UNROLL_BY(1)
  for (int first = 0; first < each; first += together) {
    epilogue_item item[together];
    typename Epilogue::kept kept[together] = {};
    FORETOKEN_UNROLL
    for (int i = 0; i < together; ++i) {
      item[i] = item_of<ColumnTiles>(job, thread_index() / 8 + (first + i) * (Threads / 8),
                                     first_tile, first_row);
      epilogue.before_wait(item[i], kept[i]);
      epilogue.after_wait(item[i], kept[i]);
    }
    FORETOKEN_UNROLL
    for (int i = 0; i < together; ++i) {
      const float y0 = finished(job, sums, scales, item[i], first_tile, first_row, 0);
      const float y1 = finished(job, sums, scales, item[i], first_tile, first_row, 1);
      epilogue.template pair<1>(item[i], kept[i], y0, y1);
    }
  }
}

// What one thread finishes when the sums lie as the matrix instructions leave them: features g =
// lane / 4 and g + 8 of one tile, for `Count` rows from item `first` on. Item j of a thread is row
// 8 (j / 2) + 2 (lane % 4) + j % 2 of the block.
template <int Count, class Epilogue>
struct held_items {
  epilogue_item item[Count];
  typename Epilogue::kept kept[Count] = {};
  float factor[2] = {1, 1}, bias[2] = {0, 0};

  FORETOKEN_DEVICE held_items(const linear_job& job, int tile, int first_row, int first = 0) {
    const int lane = thread_index() % 32;
    const bool there = tile * 16 < job.w.rows;
    FORETOKEN_UNROLL
    for (int i = 0; i < Count; ++i) {
      const int j = first + i;
      const int row = first_row + j / 2 * 8 + lane % 4 * 2 + j % 2;
      item[i] = {tile, lane / 4, row, there && row < job.input.rows};
    }
    FORETOKEN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int n = tile * 16 + lane / 4 + 8 * h;
      if (there && job.w.row_scale != nullptr) factor[h] = job.w.row_scale[n];
      if (there && job.w.bias != nullptr) bias[h] = job.w.bias[n];
    }
  }
  FORETOKEN_DEVICE void before_wait(const Epilogue& epilogue) {
    FORETOKEN_UNROLL
    for (int i = 0; i < Count; ++i) epilogue.before_wait(item[i], kept[i]);
  }
  FORETOKEN_DEVICE void after_wait(const Epilogue& epilogue) {
    FORETOKEN_UNROLL
    for (int i = 0; i < Count; ++i) epilogue.after_wait(item[i], kept[i]);
  }
  // Item i with its two sums and its row's scale.
  FORETOKEN_DEVICE void finish(const linear_job& job,
                               const Epilogue& epilogue,
                               int i,
                               float low,
                               float high,
                               float scale) const {
    float y[2] = {low * scale, high * scale};
    FORETOKEN_UNROLL
    for (int h = 0; h < 2; ++h) {
      if (job.w.row_scale != nullptr) y[h] *= factor[h];
      if (job.w.bias != nullptr) y[h] += bias[h];
    }
    epilogue.template pair<4>(item[i], kept[i], y[0], y[1]);
  }
};

}  // namespace foretoken::gpu
