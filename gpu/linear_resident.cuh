// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for few rows: a block holds all of its rows in shared memory, and its warps walk tile
// after tile; four warps a tile, one for each segment of K, whose sums meet in shared memory.
// Reads N K weights (2, 1 or 0.5 bytes) once: bound by bytes up to about 64 rows.

#include "gpu/linear.cuh"

namespace foretoken::gpu {

// Rounds under way a warp. With one tile a block (narrow matrices) there are four warps or little
// more on a multiprocessor: 6 rounds are 48 KB under way, and the whole of SmolLM2's longest
// segment. With two tiles a block, 16 warps of 3 are 96 KB.
template <int Slots>
constexpr int resident_rounds() {
  return Slots == 1 ? 6 : 3;
}

// Four k-steps, or as many as are left.
template <weight_form Form, int ColumnTiles>
FORETOKEN_DEVICE void multiply_round(float (&sum)[ColumnTiles][4],
                                     const unsigned char* slots,
                                     const std::uint16_t* halves,
                                     int stride,
                                     int left,
                                     int lane) {
  if constexpr (ColumnTiles == 1) {
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; k += 2) {
      if (k >= left) break;
      column_fragments<1> b;
      b.load(halves + k * 16, stride, lane);
      std::uint32_t a[4];
      fragment_source<Form>::decode(slots + k * slot_bytes, a);
      mma(sum[0], a, b.b[0]);
      if (k + 1 >= left) break;
      fragment_source<Form>::decode(slots + (k + 1) * slot_bytes, a);
      mma(sum[0], a, b.b[1]);
    }
  } else {
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; ++k) {
      if (k >= left) break;
      column_fragments<ColumnTiles> b;
      b.load(halves + k * 16, stride, lane);
      std::uint32_t a[4];
      fragment_source<Form>::decode(slots + k * slot_bytes, a);
      FORETOKEN_UNROLL
      for (int c = 0; c < ColumnTiles; ++c) mma(sum[c], a, b.b[c]);
    }
  }
}

template <weight_form Form, int ColumnTiles, int Slots, class Epilogue>
FORETOKEN_KERNEL(Slots * 128, 1)
linear_resident(const linear_job job, const Epilogue epilogue) {
  constexpr int threads = Slots * 128;
  constexpr int rounds = resident_rounds<Slots>();
  constexpr int items = ColumnTiles <= 2 ? 1 : ColumnTiles / 2;  // a thread's in the epilogue
  const int lane = thread_index() % 32;
  const int segment = thread_index() / 32 % 4;
  const int slot = thread_index() / 128;
  const int tiles = job.w.rows / 16;
  const int padded = padded_columns(job.input.columns);
  const int steps = padded / 64;
  const int stride = grid_x() * Slots;
  const input_layout at{8 * ColumnTiles, padded};
  const partial_sums<ColumnTiles> sums{reinterpret_cast<float*>(shared_memory() + at.end()),
                                       16 * Slots};
  auto* const scales = reinterpret_cast<float*>(shared_memory() + at.scale_at());
  unsigned char* const slots =
      shared_memory() + at.end() + partial_sums<ColumnTiles>::bytes(16 * Slots) +
      thread_index() / 32 * (rounds * round_steps * slot_bytes) + lane * 16;
  const auto* const halves =
      reinterpret_cast<const std::uint16_t*>(shared_memory()) + segment * steps * 16;
  const int first_row = block_y() * 8 * ColumnTiles;
  const int first_base = block_x() * Slots;
  const bool has_item = thread_index() / 8 < Slots * 8 * ColumnTiles;

  weight_ring<Form, rounds> weights{
      job.w, slots, steps, segment * steps, tiles, stride, first_base + slot};
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < rounds; ++i) weights.copy_round(lane);
  release_successor();
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
      copy_async_wait<rounds - 1>();
      multiply_round<Form, ColumnTiles>(sum[0], slots + ring * round_steps * slot_bytes,
                                        halves + s * 16, at.stride(), steps - s, lane);
      ring = ring + 1 == rounds ? 0 : ring + 1;
      weights.copy_round(lane);
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

template <int ColumnTiles, int Slots>
int resident_bytes(const linear_job& job) {
  const input_layout at{8 * ColumnTiles, padded_columns(job.input.columns)};
  return at.end() + partial_sums<ColumnTiles>::bytes(16 * Slots) +
         Slots * 4 * resident_rounds<Slots>() * round_steps * slot_bytes;
}

}  // namespace foretoken::gpu
