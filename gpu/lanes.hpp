// SPDX-License-Identifier: Apache-2.0
#pragma once
// How the rows of a decode step are dealt over the lanes of cluster launches: evenly and in order.
// A lane costs little more for eight rows than for one, but something: all lanes take part.

#include <algorithm>

namespace foretoken::gpu {

struct row_range {
  int first = 0, end = 0;
  constexpr int count() const noexcept { return end - first; }
};

// Part i of n of `all`.
constexpr row_range part_of(row_range all, int i, int n) noexcept {
  return {all.first + all.count() * i / n, all.first + all.count() * (i + 1) / n};
}

struct lane_deal {
  int rows = 0;
  int lanes = 0;     // the most of one launch
  int rows_max = 0;  // of a lane
  constexpr int launches() const noexcept {
    const int held = lanes * rows_max;
    return (rows + held - 1) / held;
  }
  constexpr row_range launch(int i) const noexcept { return part_of({0, rows}, i, launches()); }
  constexpr int lanes_of(row_range launch) const noexcept {
    return std::min(lanes, launch.count());
  }
};

// The deal of a step whose lanes hold `few` rows, or `most` where that saves a launch; rows 0:
// none. holds(launch, lanes): whether lanes of that launch have room for their rows.
template <class Holds>
lane_deal deal_rows(int rows, int lanes, int few, int most, Holds holds) {
  const auto fits = [&](const lane_deal& all) {
    for (int i = 0; i < all.launches(); ++i) {
      const row_range here = all.launch(i);
      if (!holds(here, all.lanes_of(here))) return false;
    }
    return true;
  };
  const lane_deal sparse{rows, lanes, few}, full{rows, lanes, most};
  if (full.launches() < sparse.launches() && fits(full)) return full;
  return fits(sparse) ? sparse : lane_deal{};
}

}  // namespace foretoken::gpu
