// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for very many rows, by the wide matrix instruction: a warpgroup has 64 n and `Rows`
// rows and walks the whole of K, the four segments one after the other, with two sums in registers:
// of the segment, and of the segments before it. Rows and weights come through a ring of rounds,
// each a few k-steps of one segment. 2 N K M operations; a block of 128 n and 128 rows reads 32 KB
// for a million products.

#include "gpu/linear.cuh"
#include "gpu/wide_mma.cuh"

namespace foretoken::gpu {

// Groups warpgroups; Steps k-steps a round, a divisor of a segment's; a ring of Stages rounds;
// Blocks of them share a multiprocessor. Offsets of shared memory in bytes.
template <int Groups, int Rows, int Steps, int Stages, int Blocks>
struct wide_shape {
  static constexpr int groups = Groups, rows = Rows, steps = Steps, stages = Stages;
  static constexpr int blocks = Blocks;
  static constexpr int threads = 128 * Groups, tiles = 4 * Groups;
  static constexpr int columns = Rows / 8;  // tiles of rows
  static constexpr int ahead = Stages - 1;  // rounds that are asked for before they are used
  static constexpr int stage_rows = Rows * atom_row_bytes;
  static constexpr int stage_weights = tiles * Steps * slot_bytes;
  static constexpr int weights_at = Stages * stage_rows;
  static constexpr int ring = weights_at + Stages * stage_weights;
  static constexpr int sums = threads * columns * 16;
  static constexpr int scale_at = ring > sums ? ring : sums;
  static constexpr int bytes = scale_at + Rows * 4;
  static_assert(Steps <= 4 && ahead >= 1 && Rows % (threads / 8) == 0 && columns % 2 == 0);
};

// What one thread copies of every round: its own part of its warp's weights, and a piece of some
// rows. Rows that are not there are the last one again.
template <weight_form Form, class Shape>
struct wide_copies {
  static constexpr int together = Shape::threads / 8;
  static constexpr int each = Shape::rows / together;
  fragment_source<Form> source;
  const std::uint16_t* from[each];
  unsigned char* slots;  // the thread's part of the first fragment
  unsigned char* to;     // and of the first row
  bool has_piece;

  FORETOKEN_DEVICE wide_copies(const linear_job& job, int tile, int first_row)
      : source(job.w,
               tile * 16 < job.w.rows ? tile : 0,
               padded_columns(job.input.columns) / 16,
               thread_index() % 32) {
    const int piece = thread_index() % 8;
    const std::size_t padded = wide(padded_columns(job.input.columns));
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      const int row = first_row + thread_index() / 8 + i * together;
      from[i] = job.input.halves + wide(row < job.input.rows ? row : job.input.rows - 1) * padded +
                wide(piece * 8);
    }
    slots = shared_memory() + Shape::weights_at +
            thread_index() / 32 * (Shape::steps * slot_bytes) + thread_index() % 32 * 16;
    to = shared_memory() + swizzled(thread_index() / 8, piece);
    has_piece = piece < 2 * Shape::steps;
  }
  FORETOKEN_DEVICE void weights(int round, int stage) const {
    FORETOKEN_UNROLL
    for (int k = 0; k < Shape::steps; ++k) {
      source.copy(slots + stage * Shape::stage_weights + k * slot_bytes, round * Shape::steps + k);
    }
  }
  FORETOKEN_DEVICE void rows(int round, int stage) const {
    if (!has_piece) return;
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      copy_async_16(to + stage * Shape::stage_rows + i * (together * atom_row_bytes),
                    from[i] + round * (Shape::steps * 16));
    }
  }
};

// The sums of one warpgroup's thread. Adding to minus zero changes no bit.
template <int Columns>
struct wide_sums {
  float segment[Columns][4], total[Columns][4];
  FORETOKEN_DEVICE wide_sums() {
    FORETOKEN_UNROLL
    for (int c = 0; c < Columns; ++c) {
      FORETOKEN_UNROLL
      for (int i = 0; i < 4; ++i) {
        segment[c][i] = 0.0f;
        total[c][i] = -0.0f;
      }
    }
  }
  FORETOKEN_DEVICE void end_segment() {
    FORETOKEN_UNROLL
    for (int c = 0; c < Columns; ++c) {
      FORETOKEN_UNROLL
      for (int i = 0; i < 4; ++i) {
        total[c][i] += segment[c][i];
        segment[c][i] = 0.0f;
      }
    }
  }
};

// Products of one round, in stage `stage` of the ring; `slots`: the thread's part of the weights.
// Registers of weights stay as they are while products run (linear_split.cuh); the other warpgroups
// and blocks of the multiprocessor use the matrix units meanwhile.
template <weight_form Form, class Shape>
FORETOKEN_DEVICE void multiply_round(float (&sum)[Shape::columns][4],
                                     const unsigned char* slots,
                                     int stage) {
  std::uint32_t a[Shape::steps][4];
  FORETOKEN_UNROLL
  for (int k = 0; k < Shape::steps; ++k) {
    fragment_source<Form>::decode(slots + stage * Shape::stage_weights + k * slot_bytes, a[k]);
  }
  const std::uint32_t rows =
      shared_address(shared_memory()) + static_cast<unsigned>(stage * Shape::stage_rows);
  hold(a);
  hold(sum);
  wide_begin();
  FORETOKEN_UNROLL
  for (int k = 0; k < Shape::steps; ++k) wide_mma(sum, a[k], atom_descriptor(rows, k));
  wide_commit();
  wide_wait<0>();
  hold(a);
  hold(sum);
}

// Four items at a time, what the next four read meanwhile. The sums wait in shared memory, each
// thread's where it finds them itself: a loop over registers would be one long straight code.
template <class Shape, class Epilogue>
FORETOKEN_DEVICE void finish_wide(const linear_job& job,
                                  const Epilogue& epilogue,
                                  const float (&total)[Shape::columns][4],
                                  const float* scales,
                                  int tile,
                                  int first_row) {
  auto* const mine = reinterpret_cast<f32x4*>(shared_memory()) + thread_index();
  FORETOKEN_UNROLL
  for (int c = 0; c < Shape::columns; ++c) {
    mine[c * Shape::threads] = f32x4{total[c][0], total[c][1], total[c][2], total[c][3]};
  }
  const auto read = [&](int c) {
    held_items<4, Epilogue> items(job, tile, first_row, 2 * c);
    items.before_wait(epilogue);
    items.after_wait(epilogue);
    return items;
  };
  held_items<4, Epilogue> next = read(0);
  FORETOKEN_UNROLL_BY(1)
  for (int c = 0; c < Shape::columns && first_row + 8 * c < job.input.rows; c += 2) {
    const held_items<4, Epilogue> items = next;
    next = read(c + 2 < Shape::columns ? c + 2 : c);
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; i += 2) {
      const f32x4 v = mine[(c + i / 2) * Shape::threads];
      const float* const scale = scales + (items.item[i].row - first_row);
      items.finish(job, epilogue, i, v.x, v.z, scale[0]);
      items.finish(job, epilogue, i + 1, v.y, v.w, scale[1]);
    }
  }
}

template <weight_form Form, class Shape, class Epilogue>
FORETOKEN_KERNEL(Shape::threads, Shape::blocks)
linear_wide(const linear_job job, const Epilogue epilogue) {
#if FORETOKEN_WIDE
  constexpr int steps = Shape::steps, stages = Shape::stages;
  const int tile = block_x() * Shape::tiles + thread_index() / 32;
  const int first_row = block_y() * Shape::rows;
  const int rounds = padded_columns(job.input.columns) / (16 * steps);
  auto* const scales = reinterpret_cast<float*>(shared_memory() + Shape::scale_at);
  const wide_copies<Form, Shape> copies(job, tile, first_row);

  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Shape::ahead && i < rounds; ++i) copies.weights(i, i);
  wait_for_predecessor();
  release_successor();
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Shape::ahead; ++i) {
    if (i < rounds) copies.rows(i, i);
    copy_async_commit();
  }
  {
    row_scales<Shape::rows, Shape::threads> row_scale;
    row_scale.load(job.input, first_row);
    row_scale.finish(job.input, scales, first_row);
  }
  wide_sums<Shape::columns> sum;
  int stage = 0, ahead = Shape::ahead, left = rounds / 4;  // of the segment
  FORETOKEN_UNROLL_BY(1)
  for (int round = 0; round < rounds; ++round) {
    copy_async_wait<Shape::ahead - 1>();
    fence_shared_for_wide();
    block_sync();  // all have done the round before
    if (round + Shape::ahead < rounds) {
      copies.weights(round + Shape::ahead, ahead);
      copies.rows(round + Shape::ahead, ahead);
    }
    copy_async_commit();
    multiply_round<Form, Shape>(sum.segment, copies.slots, stage);
    if (--left == 0) {
      sum.end_segment();
      left = rounds / 4;
    }
    stage = stage + 1 == stages ? 0 : stage + 1;
    ahead = ahead + 1 == stages ? 0 : ahead + 1;
  }
  copy_async_wait<0>();
  block_sync();
  finish_wide<Shape>(job, epilogue, sum.total, scales, tile, first_row);
#else
  wide_missing();
#endif
}

}  // namespace foretoken::gpu
