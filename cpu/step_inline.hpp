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

// Tickets of a tile: so many that none has too many rows, and that every thread has as many
// tickets when the tiles do not come out even (a kernel's block is four rows).
inline int step::tile_parts(const linear& matrix, int rows) const noexcept {
  const int parts = (rows + ticket_rows - 1) / ticket_rows;
  const bool even = matrix.tiles() * parts % threads_.threads() == 0;
  return even || rows < 8 * parts ? parts : 2 * parts;
}

// While a thread waits, it asks for its share of the matrix that follows, as far as half of a
// core's second-level cache takes it; the first tile is asked for by read_after(). +7 % at one
// and two streams, 3 at four, 1 at eight (median of 8 paired runs, EPYC Zen 4, 2026-11-24).
inline void step::read_while_waiting(const linear& following) noexcept {
  constexpr std::ptrdiff_t most = 512 * 1024;
  for (int thread = 0; thread < threads_.threads(); ++thread) {
    const int last = threads_.first_ticket(thread + 1, following.tiles()) - 1;
    const int first = std::min(threads_.first_ticket(thread, following.tiles()) + 1, last);
    if (first < 0) continue;
    const std::byte* const begin = following.tile_data(first);
    const std::ptrdiff_t bytes = std::min(most, following.tile_data(last) - begin);
    threads_.read_while_waiting(thread, {begin, static_cast<std::size_t>(bytes)});
  }
}

template <class Work>
void step::each_tile(const linear& matrix,
                     const linear& following,
                     const tile_inputs& inputs,
                     int rows,
                     Work&& work) {
  const int parts = tile_parts(matrix, rows);
  const int tickets = matrix.tiles() * parts;
  const int rows_a_part = (rows + 4 * parts - 1) / (4 * parts) * 4;
  read_while_waiting(following);
  threads_.run(tickets, [&](int ticket, int thread) {
    const int tile = ticket / parts;
    const int first = std::min(rows, ticket % parts * rows_a_part);
    const int end = std::min(rows, first + rows_a_part);
    const bool last = ticket + 1 == threads_.first_ticket(thread + 1, tickets);
    const std::byte* const next = read_after(matrix, tile, last, following, threads_, thread);
    float* y = tiles_.data() + at(thread, sizes_.rows * tile_rows);
    matrix.apply(tile, inputs.of(tile), first, end, y, tile_rows, next);
    if (first < end) work(tile, first, end, y + at(first, tile_rows));
  });
}

}  // namespace foretoken::cpu
