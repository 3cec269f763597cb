// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_cut.hpp"

#include <vector>

#include "doctest/doctest.h"

namespace foretoken::cpu {
namespace {

// How often each row of each tile is in a ticket.
std::vector<int> counts_of(const tile_cut& cut, int tiles, int rows) {
  std::vector<int> counts(static_cast<std::size_t>(tiles * rows));
  for (int i = 0; i < cut.tickets(); ++i) {
    const tile_cut::ticket one = cut.at(i);
    REQUIRE(one.tile >= 0);
    REQUIRE(one.tile < tiles);
    REQUIRE(one.end <= rows);
    REQUIRE(one.end - one.first <= ticket_rows);
    for (int r = one.first; r < one.end; ++r)
      ++counts[static_cast<std::size_t>(one.tile * rows + r)];
  }
  return counts;
}

TEST_CASE("tile_cut: every row of every tile is in one ticket") {
  for (const int tiles : {1, 2, 9, 15, 48}) {
    for (const int rows : {1, 3, 7, 8, 12, 16, 33, 128, 129, 300, 512}) {
      for (const int threads : {1, 2, 3, 4, 6, 16}) {
        CAPTURE(tiles);
        CAPTURE(rows);
        CAPTURE(threads);
        const auto counts = counts_of({tiles, rows, threads}, tiles, rows);
        CHECK(counts == std::vector<int>(counts.size(), 1));
      }
    }
  }
}

TEST_CASE("tile_cut: threads have equal work where rows are enough") {
  for (const int tiles : {9, 15, 48}) {
    for (const int threads : {2, 3, 4}) {
      constexpr int rows = 48;
      const tile_cut cut(tiles, rows, threads);
      REQUIRE(cut.tickets() % threads == 0);
      const int share = cut.tickets() / threads;
      for (int thread = 0; thread < threads; ++thread) {
        int work = 0;
        for (int i = thread * share; i < (thread + 1) * share; ++i) {
          work += cut.at(i).end - cut.at(i).first;
        }
        CAPTURE(tiles);
        CAPTURE(threads);
        CHECK(work * threads == tiles * rows);
      }
    }
  }
}

TEST_CASE("tile_cut: only the tile that is left over is cut, and none for less than a block") {
  const tile_cut cut(9, 8, 2);
  REQUIRE(cut.tickets() == 10);
  CHECK(cut.at(0).end == 8);
  CHECK(cut.at(4).tile == 8);
  CHECK(cut.at(4).end == 4);
  CHECK(cut.at(5).tile == 4);
  CHECK(cut.at(9).tile == 8);
  CHECK(cut.at(9).first == 4);
  CHECK(tile_cut(9, 4, 2).tickets() == 9);
}

}  // namespace
}  // namespace foretoken::cpu
