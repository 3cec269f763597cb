// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for few rows: a block holds all of its rows in shared memory, and its warps walk tile
// after tile; four warps a tile, one for each segment of K, whose sums meet in shared memory.
// Reads N K weights (2, 1 or 0.5 bytes) once: bound by bytes up to about 64 rows.

#include "gpu/linear.cuh"

namespace foretoken::gpu {

// Rounds under way a warp. f16: with one tile a block (narrow matrices) there are four warps or
// little more on a multiprocessor: 6 rounds are 48 KB under way. With few rows there is room for 8,
// a whole segment up to 2,048 columns, so that nothing is left to ask for after the wait. With two
// tiles a block, 16 warps of 3 are 96 KB. Codes are 2 to 4 times smaller.
template <weight_form Form, int ColumnTiles, int Slots>
struct resident_ring {
  static constexpr bool narrow = Slots == 1 && Form == weight_form::f16;
  static constexpr int shallow = Slots == 1 || Form != weight_form::f16 ? 6 : 3;
  static constexpr int deep = narrow && ColumnTiles == 1 ? 8 : shallow;
  // Until the oldest of `rounds` is there.
  FORETOKEN_DEVICE static void wait(int rounds) {
    if constexpr (deep == shallow) {
      copy_async_wait<shallow - 1>();
    } else if (rounds == deep) {
      copy_async_wait<deep - 1>();
    } else {
      copy_async_wait<shallow - 1>();
    }
  }
};

// Rows that a block holds: with one column tile only those that are there, so that the next
// kernel's blocks find room beside it and ask for their weights early.
template <int ColumnTiles>
FORETOKEN_BOTH constexpr int rows_held(const linear_input& in) {
  return ColumnTiles == 1 && in.rows < 8 ? in.rows : 8 * ColumnTiles;
}

// Four k-steps, or as many as are left. halves: with one column tile the lane's own place
// (column_fragments), else the first row's; odd: see weight_round.
template <weight_form Form, int ColumnTiles>
FORETOKEN_DEVICE void multiply_round(float (&sum)[ColumnTiles][4],
                                     const unsigned char* round,
                                     const std::uint16_t* halves,
                                     int stride,
                                     int left,
                                     int odd,
                                     int lane) {
  constexpr int together = ColumnTiles == 1 ? 2 : 1;  // k-steps a load of x
  FORETOKEN_UNROLL
  for (int k = 0; k < round_steps; k += together) {
    if (k >= left) break;
    column_fragments<ColumnTiles> b;
    if constexpr (ColumnTiles == 1) {
      b.load(halves + k * 16);
    } else {
      b.load(halves + k * 16, stride, lane);
    }
    std::uint32_t a[4];
    weight_round<Form>::decode(round, k, odd, lane, a);
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) mma(sum[c], a, b.b[c]);
    if constexpr (ColumnTiles == 1) {
      if (k + 1 >= left) break;
      weight_round<Form>::decode(round, k + 1, odd, lane, a);
      mma(sum[0], a, b.b[1]);
    }
  }
}

template <weight_form Form, int ColumnTiles, int Slots, class Epilogue>
FORETOKEN_KERNEL(Slots * 128, 1)
linear_resident(const linear_job job, const Epilogue epilogue) {
  constexpr int threads = Slots * 128;
  using round = weight_round<Form>;
  using under_way = resident_ring<Form, ColumnTiles, Slots>;
  const int rounds = under_way::deep == under_way::shallow ? under_way::shallow : job.rounds;
  constexpr int items = ColumnTiles <= 2 ? 1 : ColumnTiles / 2;  // a thread's in the epilogue
  const int lane = thread_index() % 32;
  const int segment = thread_index() / 32 % 4;
  const int slot = thread_index() / 128;
  const int tiles = job.w.rows / 16;
  const int padded = padded_columns(job.input.columns);
  const int steps = padded / 64;
  const int stride = grid_x() * Slots;
  const input_layout at{rows_held<ColumnTiles>(job.input), padded};
  const partial_sums<ColumnTiles> sums{reinterpret_cast<float*>(shared_memory() + at.end()),
                                       16 * Slots};
  auto* const scales = reinterpret_cast<float*>(shared_memory() + at.scale_at());
  unsigned char* const held = shared_memory() + at.end() +
                              partial_sums<ColumnTiles>::bytes(16 * Slots) +
                              thread_index() / 32 * (rounds * round::bytes);
  const auto* halves =
      reinterpret_cast<const std::uint16_t*>(shared_memory()) + segment * steps * 16;
  if constexpr (ColumnTiles == 1) halves += column_fragments<1>::place(at.rows, at.stride(), lane);
  const int first_row = block_y() * 8 * ColumnTiles;
  const int first_base = block_x() * Slots;
  const bool has_item = thread_index() / 8 < Slots * 8 * ColumnTiles;

  weight_ring<Form> weights{job.w,           held,  rounds, steps,
                            segment * steps, tiles, stride, first_base + slot};
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < rounds; ++i) weights.copy_round();
  const auto item_at = [&](int i, int base) {
    return item_of<ColumnTiles>(job, thread_index() / 8 + i * (threads / 8), base, first_row);
  };
  typename Epilogue::kept kept[items] = {};
  const auto keep_early = [&](int base) {
    FORETOKEN_UNROLL
    for (int i = 0; i < items; ++i) {
      if (has_item) epilogue.before_wait(item_at(i, base), kept[i]);
    }
  };
  const auto keep_late = [&](int base) {
    FORETOKEN_UNROLL
    for (int i = 0; i < items; ++i) {
      if (has_item) epilogue.after_wait(item_at(i, base), kept[i]);
    }
  };
  keep_early(first_base);
  wait_for_predecessor();
  release_successor();
  stage_rows(job.input, at, first_row, threads);
  row_scales<8 * ColumnTiles, threads> row_scale;
  row_scale.load(job.input, first_row);
  keep_late(first_base);
  copy_async_wait<0>();
  block_sync();

  int ring = 0;
  FORETOKEN_UNROLL_BY(1)
  for (int base = first_base; base < tiles; base += stride) {
    float sum[1][ColumnTiles][4] = {};
    FORETOKEN_UNROLL_BY(1)
    for (int s = 0; s < steps; s += round_steps) {
      under_way::wait(rounds);
      if constexpr (round::shared) warp_sync();
      multiply_round<Form, ColumnTiles>(sum[0], held + ring * round::bytes, halves + s * 16,
                                        at.stride(), steps - s, segment * steps % 2, lane);
      if constexpr (round::shared) warp_sync();
      ring = ring + 1 == rounds ? 0 : ring + 1;
      weights.copy_round();
    }
    store_sums<1, ColumnTiles>(sums, sum, segment, slot * 16, lane);
    if (base == first_base) row_scale.finish(job.input, scales, first_row);
    block_sync();
    if (base != first_base) {
      keep_early(base);
      keep_late(base);
    }
    FORETOKEN_UNROLL
    for (int i = 0; i < items; ++i) {
      if (!has_item) continue;
      const epilogue_item item = item_at(i, base);
      const float y0 = finished(job, sums, scales, item, base, first_row, 0);
      const float y1 = finished(job, sums, scales, item, base, first_row, 1);
      epilogue.template pair<1>(item, kept[i], y0, y1);
    }
    if (base + stride < tiles) block_sync();
  }
  copy_async_wait<0>();
}

template <weight_form Form, int ColumnTiles, int Slots>
int resident_bytes(const linear_job& job) {
  const input_layout at{rows_held<ColumnTiles>(job.input), padded_columns(job.input.columns)};
  return at.end() + partial_sums<ColumnTiles>::bytes(16 * Slots) +
         Slots * 4 * job.rounds * weight_round<Form>::bytes;
}

}  // namespace foretoken::gpu
