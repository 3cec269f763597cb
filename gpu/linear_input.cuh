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
// the eight rows of a matrix load fall into different banks. Offsets in bytes.
struct input_layout {
  int rows, padded;
  FORETOKEN_BOTH constexpr int stride() const { return padded + 8; }
  FORETOKEN_BOTH constexpr int scale_at() const { return rows * stride() * 2; }
  FORETOKEN_BOTH constexpr int end() const { return scale_at() + (rows * 4 + 15) / 16 * 16; }
};

FORETOKEN_DEVICE int source_row(const linear_input& in, int row) {
  return in.which != nullptr ? in.which[row] : row;
}

// scales[r] for rows [first, first + count): 1 / rms times 2^range, or 1; 0 for rows that are not
// there.
FORETOKEN_DEVICE void row_scales(
    const linear_input& in, float* scales, int first, int count, int threads) {
  const int lane = thread_index() % 32;
  for (int r = thread_index() / 32; r < count; r += threads / 32) {
    const int row = first + r;
    float scale = row < in.rows ? 1.0f : 0.0f;
    if (in.squares != nullptr && row < in.rows) {
      const int tiles = square_tiles(in.columns);
      const float sum =
          lane_order_sum(in.squares + wide(source_row(in, row)) * wide(tiles), tiles, lane);
      scale = inverse_root(sum, in.columns, in.epsilon) * power_of_two(in.range);
    }
    if (lane == 0) scales[r] = scale;
  }
}

// Rows [first, first + at.rows) and their scales into shared memory. The caller synchronises the
// block.
FORETOKEN_DEVICE void stage_rows(const linear_input& in,
                                 const input_layout& at,
                                 int first,
                                 int threads) {
  auto* const halves = reinterpret_cast<std::uint16_t*>(shared_memory());
  const int pieces = at.padded / 8;
  for (int i = thread_index(); i < at.rows * pieces; i += threads) {
    const int r = i / pieces;
    const int column = (i - r * pieces) * 8;
    std::uint16_t* const to = halves + r * at.stride() + column;
    if (first + r < in.rows) {
      copy_async_16(to,
                    in.halves + wide(source_row(in, first + r)) * wide(at.padded) + wide(column));
    } else {
      *reinterpret_cast<u32x4*>(to) = u32x4{0, 0, 0, 0};
    }
  }
  copy_async_commit();
  row_scales(in, reinterpret_cast<float*>(shared_memory() + at.scale_at()), first, at.rows,
             threads);
  copy_async_wait<0>();
}

}  // namespace foretoken::gpu
