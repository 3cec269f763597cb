// SPDX-License-Identifier: Apache-2.0
#pragma once
// How phases of a step are cut into tickets; included by the step_*.cpp only.

#include <algorithm>

#include "cpu/step.hpp"
#include "cpu/tile_cut.hpp"

namespace foretoken::cpu {

// Row work takes 1-2 us a row, a phase change about 1 us: the caller does this many alone.
constexpr int rows_alone = 4;
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

// While a thread waits, it asks for its share of the matrix that follows, as far as half of a
// core's second-level cache takes it; the first tile is asked for by each_tile(). +7 % at one
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

// What a thread reads after a ticket: the tile of its next one, null when that is the same; behind
// the last of its share, its first of the matrix that follows.
inline const std::byte* step::read_after(const linear& matrix,
                                         const tile_cut& cut,
                                         int number,
                                         const linear& following,
                                         int thread) const noexcept {
  if (number + 1 == threads_.first_ticket(thread + 1, cut.tickets())) {
    return following.tile_data(threads_.first_ticket(thread, following.tiles()));
  }
  const int next = cut.at(std::min(number + 1, cut.tickets() - 1)).tile;
  return next == cut.at(number).tile ? nullptr : matrix.tile_data(next);
}

template <class Work>
void step::each_tile(const linear& matrix,
                     const linear& following,
                     const tile_inputs& inputs,
                     int rows,
                     Work&& work) {
  const tile_cut cut(matrix.tiles(), rows, threads_.threads());
  read_while_waiting(following);
  threads_.run(cut.tickets(), [&](int number, int thread) {
    const tile_cut::ticket one = cut.at(number);
    float* y = tiles_.data() + at(thread, sizes_.rows * tile_rows);
    matrix.apply(one.tile, inputs.of(one.tile), one.first, one.end, y, tile_rows,
                 {read_after(matrix, cut, number, following, thread),
                  &later_[static_cast<std::size_t>(thread)]});
    if (one.first < one.end) work(one.tile, one.first, one.end, y + at(one.first, tile_rows));
  });
}

}  // namespace foretoken::cpu
