// SPDX-License-Identifier: Apache-2.0
#pragma once
// How phases of a step are cut into tickets; included by the step_*.cpp only.

#include <algorithm>

#include "cpu/step.hpp"

namespace foretoken::cpu {

// Row work takes 1-2 us a row, a phase change about 1 us: the caller does this many alone.
constexpr int rows_alone = 4;
// Rows of one matrix ticket: 128 rows of a tile's results are 32 KiB, half of L1 and L2's small
// change.
constexpr int ticket_rows = 128;

inline std::size_t step::at(int row_index, int stride) const noexcept {
  return static_cast<std::size_t>(row_index) * static_cast<std::size_t>(stride);
}

template <class Work>
void step::each_row(int count, Work&& work) {
  if (count <= rows_alone) {
    for (int i = 0; i < count; ++i) work(i, 0);
    return;
  }
  threads_.run(count, work);
}

template <class Work>
void step::each_tile(const linear& matrix, const tile_inputs& inputs, int rows, Work&& work) {
  const int parts = (rows + ticket_rows - 1) / ticket_rows;
  threads_.run(matrix.tiles() * parts, [&](int ticket, int thread) {
    const int tile = ticket / parts;
    const int first = ticket % parts * ticket_rows;
    const int end = std::min(rows, first + ticket_rows);
    float* y = tiles_.data() + at(thread, sizes_.rows * tile_rows);
    matrix.apply(tile, inputs.of(tile), first, end, y, tile_rows);
    work(tile, first, end, y + at(first, tile_rows));
  });
}

}  // namespace foretoken::cpu
