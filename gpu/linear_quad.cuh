// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for ten to some hundred rows, by the wide matrix instruction: a block of four
// warpgroups has 64 n and `Rows` rows, each warpgroup one segment of K, all of it in shared memory;
// their sums meet there, and all sixteen warps finish. linear_split.cuh without the cluster, for K
// that fits. 2 N K M operations; a block of 64 n and 32 rows of K = 576 reads 110 KB for 1.2
// million products.

#include "gpu/linear_split.cuh"

namespace foretoken::gpu {

constexpr int quad_threads = split_segments * split_threads;

// Shared memory: per segment atoms of rows, then fragments [step][warp]; scales. The sums
// [segment][item][thread of a warpgroup] lie where the segments were. Offsets in bytes.
template <int Rows>
struct quad_layout {
  int steps;
  FORETOKEN_BOTH constexpr int weights_at() const {
    return (steps + 3) / 4 * (Rows * atom_row_bytes);
  }
  // Whole atoms: 1,024 bytes.
  FORETOKEN_BOTH constexpr int segment_bytes() const {
    return (weights_at() + steps * split_tiles * slot_bytes + 1023) / 1024 * 1024;
  }
  FORETOKEN_BOTH constexpr int scale_at() const {
    const int sums = split_segments * Rows * 64 * 4;
    const int all = split_segments * segment_bytes();
    return all > sums ? all : sums;
  }
  FORETOKEN_BOTH constexpr int bytes() const { return scale_at() + Rows * 4; }
};

template <weight_form Form, int Rows, class Epilogue>
FORETOKEN_KERNEL(quad_threads, 1)
linear_quad(const linear_job job, const Epilogue epilogue) {
#if FORETOKEN_WIDE
  constexpr int all = Rows / 4, each = all / split_segments;  // items of a thread's place; its own
  const int lane = thread_index() % 32;
  const int segment = thread_index() / split_threads;
  const int tile = block_x() * split_tiles + thread_index() / 32 % split_tiles;
  const int steps = padded_columns(job.input.columns) / 64;
  const quad_layout<Rows> at{steps};
  const int first_row = block_y() * Rows;
  unsigned char* const atoms = shared_memory() + segment * at.segment_bytes();
  unsigned char* const weights =
      atoms + at.weights_at() + thread_index() / 32 % split_tiles * slot_bytes + lane * 16;
  auto* const scales = reinterpret_cast<float*>(shared_memory() + at.scale_at());

  copy_segment<Form>(job, tile, steps, segment, weights);
  held_items<each, Epilogue> items(job, tile, first_row, segment * each);
  items.before_wait(epilogue);
  wait_for_predecessor();
  release_successor();
  stage_atoms<Rows>(job.input, first_row, steps, segment, atoms);
  row_scales<Rows, quad_threads> row_scale;
  row_scale.load(job.input, first_row);
  items.after_wait(epilogue);
  row_scale.finish(job.input, scales, first_row);
  copy_async_wait<0>();
  fence_shared_for_wide();
  block_sync();

  float sum[Rows / 8][4] = {};
  split_products<Form, Rows>(sum, weights, shared_address(atoms), steps);
  block_sync();  // the sums lie where the segments were
  auto* const sums = reinterpret_cast<f32x2*>(shared_memory()) + thread_index() % split_threads;
  FORETOKEN_UNROLL
  for (int j = 0; j < all; ++j) {
    sums[(segment * all + j) * split_threads] = f32x2{sum[j / 2][j % 2], sum[j / 2][j % 2 + 2]};
  }
  block_sync();
  FORETOKEN_UNROLL
  for (int i = 0; i < each; ++i) {
    f32x2 part[split_segments];
    FORETOKEN_UNROLL
    for (int s = 0; s < split_segments; ++s) {
      part[s] = sums[(s * all + segment * each + i) * split_threads];
    }
    items.finish(job, epilogue, i, in_order(part[0].x, part[1].x, part[2].x, part[3].x),
                 in_order(part[0].y, part[1].y, part[2].y, part[3].y),
                 scales[items.item[i].row - first_row]);
  }
#else
  wide_missing();
#endif
}

}  // namespace foretoken::gpu
