// SPDX-License-Identifier: Apache-2.0
#include "gpu/lanes.hpp"

#include <doctest/doctest.h>

namespace foretoken::gpu {
namespace {

// The rows of every lane in turn; REQUIREs that they follow each other.
int dealt(const lane_deal& deal, int& most, int& least) {
  int next = 0;
  for (int i = 0; i < deal.launches(); ++i) {
    const row_range here = deal.launch(i);
    REQUIRE(here.first == next);
    const int lanes = deal.lanes_of(here);
    REQUIRE(lanes <= deal.lanes);
    for (int l = 0; l < lanes; ++l) {
      const row_range own = part_of(here, l, lanes);
      REQUIRE(own.first == next);
      next = own.end;
      most = std::max(most, own.count());
      least = std::min(least, own.count());
    }
  }
  return next;
}

TEST_CASE("lanes: every row is dealt once, in order, and no lane has more than it takes") {
  for (const int lanes : {1, 4, 7}) {
    for (int rows = 1; rows <= 300; ++rows) {
      CAPTURE(rows);
      int most = 0, least = rows;
      CHECK(dealt({rows, lanes, 8}, most, least) == rows);
      CHECK(most <= 8);
      CHECK(least >= 1);
    }
  }
}

TEST_CASE("lanes: one row a lane while there are lanes, then evenly, also over two launches") {
  CHECK(lane_deal{7, 7, 8}.lanes_of({0, 7}) == 7);
  CHECK(lane_deal{56, 7, 8}.launches() == 1);
  const lane_deal two{64, 7, 8};
  CHECK(two.launches() == 2);
  CHECK(two.launch(0).count() == 32);
  CHECK(part_of(two.launch(1), 0, 7).count() == 4);
}

}  // namespace
}  // namespace foretoken::gpu
