// SPDX-License-Identifier: Apache-2.0
// What one lane holds: spans of all its (row, KV head) pairs, numbered through, go to the blocks in
// turn; a pair's results go to block pair % 16.
#include <algorithm>

#include "gpu/cluster_layout.hpp"
#include "gpu/cluster_step.hpp"

namespace foretoken::gpu::cluster {

bool lane_fits(const limits& most, std::span<const std::int32_t> positions) {
  const int rows = static_cast<int>(positions.size());
  if (rows < 1 || rows > most.rows_max) return false;
  int merged[blocks] = {}, spans = 0;
  for (int p = 0; p < rows * most.kv_heads; ++p) {
    const int of_pair = positions[static_cast<std::size_t>(p / most.kv_heads)] / attention_span + 1;
    merged[p % blocks] += of_pair;
    spans += of_pair;
    if (merged[p % blocks] > most.spans_max || spans > most.spans_read_max * blocks) return false;
  }
  return true;
}

int fullest(std::span<const lane_rows> lanes) {
  return std::ranges::max(lanes, {}, &lane_rows::rows).rows;
}

bool lanes_fit(model_shape shape, std::span<const lane_rows> lanes) {
  const limits most = limits_of(shape, fullest(lanes));
  return std::ranges::all_of(lanes, [&](const lane_rows& lane) {
    return lane.rows > 0 && lane.rows <= most.rows_max &&
           lane_fits(most, {lane.position, static_cast<std::size_t>(lane.rows)});
  });
}

}  // namespace foretoken::gpu::cluster
