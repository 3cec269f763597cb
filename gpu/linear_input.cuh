// SPDX-License-Identifier: Apache-2.0
#pragma once
// The rows that a product reads: f16, left by the kernel before, with the scale they still need.

#include "gpu/device.cuh"
#include "gpu/kernels.hpp"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {

struct linear_input {
  const std::uint16_t* halves = nullptr;  // [rows][columns_padded], zero beyond the columns
  const std::int32_t* which = nullptr;    // row r is halves[which[r]]; null = halves[r]
  const float* squares = nullptr;         // [rows][square_tiles(columns)]; null = the scale is 1
  float epsilon = 0;
  int range = 0;
  int rows = 0;
  int columns = 0;
};

// Shared memory of a block that holds `rows` whole rows; they are padded columns + 8 apart, so that
// the eight rows of a matrix load fall into different banks. The last fragment load of a row may
// reach 16 bytes beyond it (column_fragments<1>): nothing else lies there. Offsets in bytes.
struct input_layout {
  int rows, padded;
  FORETOKEN_BOTH constexpr int stride() const { return padded + 8; }
  FORETOKEN_BOTH constexpr int scale_at() const { return rows * stride() * 2 + 16; }
  FORETOKEN_BOTH constexpr int end() const { return scale_at() + (rows * 4 + 15) / 16 * 16; }
};

FORETOKEN_DEVICE int source_row(const linear_input& in, int row) {
  return in.which != nullptr ? in.which[row] : row;
}

// Scales of `Rows` rows by one warp: 1 / rms times 2^range, or 1; row w * Rows + r is the r-th of
// warp w. Loads first and sums later, all rows side by side: one row after the other costs a memory
// latency, five shuffles and a division each.
template <int Rows>
struct row_scales {
  static constexpr int early = 4;  // loads a lane: a width of 2,048; what is beyond comes in finish
  float part[Rows][early];

  FORETOKEN_DEVICE static int row_of(int r) { return thread_index() / 32 * Rows + r; }
  FORETOKEN_DEVICE static const float* squares_of(const linear_input& in, int row) {
    return in.squares + wide(source_row(in, row)) * wide(square_tiles(in.columns));
  }
  FORETOKEN_DEVICE void load(const linear_input& in, int first) {
    const int tiles = square_tiles(in.columns);
    FORETOKEN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const int row = first + row_of(r);
      const bool there = in.squares != nullptr && row < in.rows;
      FORETOKEN_UNROLL
      for (int j = 0; j < early; ++j) {
        const int i = thread_index() % 32 + 32 * j;
        part[r][j] = there && i < tiles ? squares_of(in, row)[i] : 0.0f;
      }
    }
  }
  // A sum of squares is never negative, so adding a zero changes no bit.
  FORETOKEN_DEVICE void finish(const linear_input& in, float* scales, int first) {
    const int lane = thread_index() % 32;
    const int tiles = square_tiles(in.columns);
    float sum[Rows];
    FORETOKEN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      sum[r] = part[r][0];
      FORETOKEN_UNROLL
      for (int j = 1; j < early; ++j) sum[r] += part[r][j];
      const int row = first + row_of(r);
      if (in.squares == nullptr || row >= in.rows) continue;
      FORETOKEN_UNROLL_BY(1)
      for (int i = lane + 32 * early; i < tiles; i += 32) sum[r] += squares_of(in, row)[i];
    }
    FORETOKEN_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) {
      FORETOKEN_UNROLL
      for (int r = 0; r < Rows; ++r) sum[r] += shuffle_xor(sum[r], mask);
    }
    float mine = sum[0];
    FORETOKEN_UNROLL
    for (int r = 1; r < Rows; ++r) mine = lane == r ? sum[r] : mine;
    if (in.squares != nullptr) {
      mine = inverse_root(mine, in.columns, in.epsilon) * power_of_two(in.range);
    } else {
      mine = 1;
    }
    if (lane < Rows) scales[row_of(lane)] = mine;
  }
};

// Starts to copy rows [first, first + at.rows) into shared memory. Rows that are not there stay as
// they are: columns of a product do not mix.
FORETOKEN_DEVICE void stage_rows(const linear_input& in,
                                 const input_layout& at,
                                 int first,
                                 int threads) {
  auto* const halves = reinterpret_cast<std::uint16_t*>(shared_memory());
  const int rows = in.rows - first < at.rows ? in.rows - first : at.rows;
  FORETOKEN_UNROLL_BY(1)
  for (int r = 0; r < rows; ++r) {
    const std::uint16_t* from = in.halves + wide(source_row(in, first + r)) * wide(at.padded);
    FORETOKEN_UNROLL_BY(1)
    for (int i = thread_index() * 8; i < at.padded; i += threads * 8) {
      copy_async_16(halves + r * at.stride() + i, from + i);
    }
  }
  copy_async_commit();
}

}  // namespace foretoken::gpu
