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
  // Scales of whole column tiles, also when fewer rows are there.
  FORETOKEN_BOTH constexpr int end() const { return scale_at() + (rows + 7) / 8 * 32; }
};

FORETOKEN_DEVICE int source_row(const linear_input& in, int row) {
  return in.which != nullptr ? in.which[row] : row;
}

// Scales of a block's `Rows` rows: 1 / rms times 2^range, or 1. Eight threads a row, Threads / 8
// rows at once; loads first and sums later. Thread q of a row has the lanes q, q + 8, q + 16 and q
// + 24 of lane_order_sum, whose tree adds those four first.
template <int Rows, int Threads>
struct row_scales {
  static constexpr int together = Threads / 8;
  static constexpr int passes = (Rows + together - 1) / together;
  static constexpr int early =
      16;  // loads of a row: a width of 2,048; what is beyond comes in finish
  float part[passes][early];

  FORETOKEN_DEVICE static int row_of(int pass) { return thread_index() / 8 + pass * together; }
  FORETOKEN_DEVICE static const float* squares_of(const linear_input& in, int row) {
    return in.squares + wide(source_row(in, row)) * wide(square_tiles(in.columns)) +
           thread_index() % 8;
  }
  FORETOKEN_DEVICE void load(const linear_input& in, int first) {
    if (in.squares == nullptr) return;
    const int mine =
        square_tiles(in.columns) - thread_index() % 8;  // tiles from the thread's first
    FORETOKEN_UNROLL
    for (int pass = 0; pass < passes; ++pass) {
      const int row = first + row_of(pass);
      const bool there = row_of(pass) < Rows && row < in.rows;
      const float* const from = squares_of(in, there ? row : first);
      FORETOKEN_UNROLL
      for (int i = 0; i < early; ++i) {
        part[pass][i] = there && 8 * i < mine ? from[8 * i] : 0.0f;
      }
    }
  }
  // A sum of squares is never negative, so adding a zero changes no bit.
  FORETOKEN_DEVICE void finish(const linear_input& in, float* scales, int first) {
    FORETOKEN_UNROLL
    for (int pass = 0; pass < passes; ++pass) {
      const int row = first + row_of(pass);
      float scale = 1;
      if (in.squares != nullptr) {
        scale =
            inverse_root(sum_of(in, pass, row < in.rows ? row : first), in.columns, in.epsilon) *
            power_of_two(in.range);
      }
      if (thread_index() % 8 == 0 && row_of(pass) < Rows) scales[row_of(pass)] = scale;
    }
  }

 private:
  FORETOKEN_DEVICE float sum_of(const linear_input& in, int pass, int row) const {
    float lane[4] = {0, 0, 0, 0};
    FORETOKEN_UNROLL
    for (int i = 0; i < early; ++i) lane[i % 4] += part[pass][i];
    const int tiles = square_tiles(in.columns);
    FORETOKEN_UNROLL_BY(1)
    for (int t = 8 * early; t < tiles; t += 32) {
      FORETOKEN_UNROLL
      for (int k = 0; k < 4; ++k) {
        const int tile = t + 8 * k;
        if (tile + thread_index() % 8 < tiles) lane[k] += squares_of(in, row)[tile];
      }
    }
    float sum = (lane[0] + lane[2]) + (lane[1] + lane[3]);
    sum += shuffle_xor(sum, 4);
    sum += shuffle_xor(sum, 2);
    sum += shuffle_xor(sum, 1);
    return sum;
  }
};

// Starts to copy rows [first, first + at.rows) into shared memory, by all threads when there are
// few rows, at least eight a row. Rows that are not there stay as they are: columns of a product do
// not mix.
FORETOKEN_DEVICE void stage_rows(const linear_input& in,
                                 const input_layout& at,
                                 int first,
                                 int threads) {
  const int rows = in.rows - first < at.rows ? in.rows - first : at.rows;
  int shift = 3;  // of the threads a row
  while (rows << (shift + 1) <= threads) ++shift;
  const int column = (thread_index() & ((1 << shift) - 1)) * 8;
  FORETOKEN_UNROLL_BY(1)
  for (int r = thread_index() >> shift; r < rows; r += threads >> shift) {
    const std::uint16_t* const from = in.halves + wide(source_row(in, first + r)) * wide(at.padded);
    std::uint16_t* const to = reinterpret_cast<std::uint16_t*>(shared_memory()) + r * at.stride();
    FORETOKEN_UNROLL_BY(4)
    for (int i = column; i < at.padded; i += 8 << shift) copy_async_16(to + i, from + i);
  }
  copy_async_commit();
}

}  // namespace foretoken::gpu
