// SPDX-License-Identifier: Apache-2.0
#pragma once
// The spans of a pair become its attention, the input of the output projection, in every block.

#include "gpu/cluster_attention.cuh"

namespace foretoken::gpu::cluster {

// Merges the spans of this block's pairs: a warp has one head, a thread 2 places of it (finisher's
// words). By the twelve warps of the output projection.
template <class S>
FORETOKEN_DEVICE void merge_spans(block<S>& b) {
  using at = memory<S>;
  static_assert(head_dim == 64 && ceil_div(S::pairs, blocks) * S::group <= tile_warps);
  const tables& t = b.table();
  const int column = b.warp % S::group, pair = b.rank + b.warp / S::group * blocks;
  if (pair >= b.rows * S::kv_heads) return;
  const int row = pair / S::kv_heads, word = b.lane % 4, piece = b.lane / 4;
  const int count = static_cast<unsigned>(t.position[row]) / span_positions + 1;
  const char* from = b.base() + at::spans + t.first_slot[pair] * at::span_bytes;
  float m = lowest, l = 0;
  f32x2 o{0, 0};
  FORETOKEN_UNROLL_BY(1)
  for (int n = 0; n < count; n += 4, from += 4 * at::span_bytes) {
    f32x2 part[4], v[4];
    FORETOKEN_UNROLL
    for (int k = 0; k < 4; ++k) {
      part[k] = v[k] = f32x2{0, 0};
      if (n + k >= count) continue;
      const char* const at_span = from + k * at::span_bytes;
      part[k] = *reinterpret_cast<const f32x2*>(at_span + S::group * 256 + column * 8);
      v[k] = *reinterpret_cast<const f32x2*>(at_span + column * 256 + piece * 32 + word * 8);
    }
    four_folds by;
    fold(m, l, part, by);
    FORETOKEN_UNROLL
    for (int k = 0; k < 4; ++k) {
      o.x = folded(o.x, by, k, v[k].x);
      o.y = folded(o.y, by, k, v[k].y);
    }
  }
  // Lanes in the order in which the pieces stand.
  const u32x4 packed = gather(stored_pair(o.x / l, o.y / l), b.lane % 8 ^ row % 4 * 2);
  const int head = pair % S::kv_heads * S::group + column;
  const int target = at::output + (head * S::rows + row) * 128 + b.lane % 8 * 16;
  FORETOKEN_UNROLL
  for (int k = 0; k < 4; ++k) b.send(k, target, packed, to_output);
}

}  // namespace foretoken::gpu::cluster
