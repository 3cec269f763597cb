// SPDX-License-Identifier: Apache-2.0
#pragma once
// y[row][n] = sum over k of W[n][k] x[row][k], and what follows it (an epilogue), in two kernels
// with the same bits.
//
// Weights are the A operand: a tile of 16 n, a k-step of 16; rows of x are the 8 columns of B. Four
// warps a tile, one for each segment of K; their sums meet in shared memory and are added in order.
//   linear_resident  holds all of its rows in shared memory; for few rows.
//                    Reads N K weights (2, 1 or 0.5 bytes) once: bound by bytes up to about 64
//                    rows.
//   linear_streamed  takes its rows through a ring of 64 columns a segment; for many rows.
//                    2 N K M operations; a block of 64 n and 64 rows reads 16 KB for 131,072
//                    products.
// Weights go from memory to registers without a stop, the first ones before the predecessor is
// done.

#include "gpu/linear_input.cuh"
#include "gpu/weight_stream.cuh"

namespace foretoken::gpu {

struct linear_job {
  linear_input input;
  packed_matrix w;
};

// ---- the product of one warp

// B fragments of one k-step, from rows of f16 in shared memory.
template <int ColumnTiles>
struct column_fragments {
  std::uint32_t b[ColumnTiles][2];
  FORETOKEN_DEVICE void load(const std::uint16_t* halves, int stride, int lane) {
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; c += 2) {
      std::uint32_t both[4];
      load_matrices_4(both,
                      halves + (8 * c + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
      b[c][0] = both[0];
      b[c][1] = both[1];
      b[c + 1][0] = both[2];
      b[c + 1][1] = both[3];
    }
  }
};
// One column tile: two k-steps at once. The second may lie beyond the row; it is not used then.
template <>
struct column_fragments<1> {
  std::uint32_t b[2][2];
  FORETOKEN_DEVICE void load(const std::uint16_t* halves, int stride, int lane) {
    std::uint32_t both[4];
    load_matrices_4(both, halves + lane % 8 * stride + lane / 8 * 8);
    b[0][0] = both[0];
    b[0][1] = both[1];
    b[1][0] = both[2];
    b[1][1] = both[3];
  }
};

// Sums of all segments, [segment][row of the block's tiles][column + padding].
template <int ColumnTiles>
struct partial_sums {
  static constexpr int stride = 8 * ColumnTiles + 4;  // eight rows, four columns: 32 banks
  float* at;
  int block_rows;  // 16 * tiles of the block
  FORETOKEN_DEVICE float* row(int segment, int r) const {
    return at + (segment * block_rows + r) * stride;
  }
  static constexpr int bytes(int rows) { return 4 * rows * stride * 4; }
};

template <int RowTiles, int ColumnTiles>
FORETOKEN_DEVICE void store_sums(const partial_sums<ColumnTiles>& to,
                                 const float (&sum)[RowTiles][ColumnTiles][4],
                                 int segment,
                                 int first_row,
                                 int lane) {
  FORETOKEN_UNROLL
  for (int w = 0; w < RowTiles; ++w) {
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; ++c) {
      float* p = to.row(segment, first_row + 16 * w + lane / 4) + 8 * c + lane % 4 * 2;
      *reinterpret_cast<f32x2*>(p) = f32x2{sum[w][c][0], sum[w][c][1]};
      *reinterpret_cast<f32x2*>(p + 8 * to.stride) = f32x2{sum[w][c][2], sum[w][c][3]};
    }
  }
}

// What a thread's item of the epilogue is: features 16 tile + g and 8 more of one row.
struct epilogue_item {
  int tile, g, row;
  bool wanted;
};

template <int ColumnTiles>
FORETOKEN_DEVICE epilogue_item
item_of(const linear_job& job, int i, int first_tile, int first_row) {
  constexpr int columns = 8 * ColumnTiles;
  const int tile = first_tile + i / columns;
  const int row = first_row + i % columns;
  return {tile, thread_index() % 8, row, row < job.input.rows && tile * 16 < job.w.rows};
}

// The sum over segments of value (item, h), scaled and biased.
template <int ColumnTiles>
FORETOKEN_DEVICE float finished(const linear_job& job,
                                const partial_sums<ColumnTiles>& sums,
                                const float* scales,
                                const epilogue_item& item,
                                int first_tile,
                                int first_row,
                                int h) {
  const int r = (item.tile - first_tile) * 16 + item.g + 8 * h;
  const int column = item.row - first_row;
  const int n = item.tile * 16 + item.g + 8 * h;
  float v = sums.row(0, r)[column] + sums.row(1, r)[column];
  v += sums.row(2, r)[column];
  v += sums.row(3, r)[column];
  v *= scales[column];
  if (item.wanted && job.w.row_scale != nullptr) v *= job.w.row_scale[n];
  if (item.wanted && job.w.bias != nullptr) v += job.w.bias[n];
  return v;
}

// An epilogue has a type `kept` for what it reads early: before_wait what the step's inputs and the
// weights say, after_wait what kernels before it wrote; pair() then takes both sums. g stands in
// the lane's lowest three bits; all lanes of a warp come along, also for rows that are not there.
template <int Threads, int ColumnTiles, class Epilogue>
FORETOKEN_DEVICE void finish_tiles(const linear_job& job,
                                   const Epilogue& epilogue,
                                   const partial_sums<ColumnTiles>& sums,
                                   const float* scales,
                                   int first_tile,
                                   int tiles,
                                   int first_row) {
  FORETOKEN_UNROLL_BY(1)
  for (int i = thread_index() / 8; i < tiles * 8 * ColumnTiles; i += Threads / 8) {
    const epilogue_item item = item_of<ColumnTiles>(job, i, first_tile, first_row);
    typename Epilogue::kept kept{};
    epilogue.before_wait(item, kept);
    epilogue.after_wait(item, kept);
    const float y0 = finished(job, sums, scales, item, first_tile, first_row, 0);
    const float y1 = finished(job, sums, scales, item, first_tile, first_row, 1);
    epilogue.pair(item, kept, y0, y1);
  }
}

// ---- few rows

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
  row_scales<8 * ColumnTiles / (Slots * 4)> row_scale;
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
      epilogue.pair(item, kept[i], y0, y1);
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

// ---- many rows

constexpr int stage_stride = round_steps * 16 + 8;

template <int ColumnTiles>
constexpr int stage_halves() {
  return 4 * 8 * ColumnTiles * stage_stride;
}

template <int ColumnTiles, int BlockTiles, int Stages>
constexpr int streamed_weights_at() {
  return Stages * stage_halves<ColumnTiles>() * 2;
}
template <int ColumnTiles, int BlockTiles, int Stages>
constexpr int streamed_scale_at() {
  constexpr int ring = streamed_weights_at<ColumnTiles, BlockTiles, Stages>() +
                       Stages * BlockTiles * 4 * round_steps * slot_bytes;
  constexpr int sums = partial_sums<ColumnTiles>::bytes(16 * BlockTiles);
  return ring > sums ? ring : sums;
}

// Stage `round` of the ring: columns [64 round, ..) of every segment. Rows that are not there stay
// as they are: columns of a product do not mix.
template <int Threads, int ColumnTiles>
FORETOKEN_DEVICE void stage_round(
    const linear_input& in, int padded, int steps, int first_row, int round, std::uint16_t* stage) {
  constexpr int rows = 8 * ColumnTiles;
  constexpr int pieces = 4 * rows * round_steps * 2;       // of 8 halves
  const int columns = (steps - round * round_steps) * 16;  // left in a segment
  FORETOKEN_UNROLL
  for (int i = 0; i < pieces / Threads; ++i) {
    const int piece = thread_index() + i * Threads;
    const int column = piece % (round_steps * 2) * 8;
    const int r = piece / (round_steps * 2) % rows;
    const int segment = piece / (round_steps * 2) / rows;
    if (column >= columns || first_row + r >= in.rows) continue;
    copy_async_16(stage + (segment * rows + r) * stage_stride + column,
                  in.halves + wide(source_row(in, first_row + r)) * wide(padded) +
                      wide((segment * steps + round * round_steps) * 16 + column));
  }
}

template <weight_form Form, int RowTiles, int ColumnTiles, int Slots, int Stages, class Epilogue>
FORETOKEN_KERNEL(Slots * 128, 1)
linear_streamed(const linear_job job, const Epilogue epilogue) {
  constexpr int threads = Slots * 128;
  constexpr int block_tiles = Slots * RowTiles;
  constexpr int warp_slots = RowTiles * round_steps;
  const int lane = thread_index() % 32;
  const int segment = thread_index() / 32 % 4;
  const int slot = thread_index() / 128;
  const int tiles = job.w.rows / 16;
  const int padded = padded_columns(job.input.columns);
  const int steps = padded / 64;
  const int rounds = (steps + round_steps - 1) / round_steps;
  const int base = block_x() * block_tiles;
  const int first_row = block_y() * 8 * ColumnTiles;
  auto* const halves = reinterpret_cast<std::uint16_t*>(shared_memory());
  unsigned char* const slots = shared_memory() +
                               streamed_weights_at<ColumnTiles, block_tiles, Stages>() +
                               thread_index() / 32 * (Stages * warp_slots * slot_bytes) + lane * 16;
  auto* const scales = reinterpret_cast<float*>(
      shared_memory() + streamed_scale_at<ColumnTiles, block_tiles, Stages>());

  const auto copy_weights = [&](int round) {
    FORETOKEN_UNROLL
    for (int w = 0; w < RowTiles; ++w) {
      const int tile = base + slot * RowTiles + w;
      const fragment_source<Form> from(job.w, tile < tiles ? tile : 0, steps * 4, lane);
      FORETOKEN_UNROLL
      for (int k = 0; k < round_steps; ++k) {
        const int step = round * round_steps + k;
        if (step >= steps) break;
        from.copy(slots + ((round % Stages * RowTiles + w) * round_steps + k) * slot_bytes,
                  segment * steps + step);
      }
    }
  };
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Stages - 1 && i < rounds; ++i) copy_weights(i);
  release_successor();
  wait_for_predecessor();
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < Stages - 1; ++i) {
    if (i < rounds) {
      stage_round<threads, ColumnTiles>(job.input, padded, steps, first_row, i,
                                        halves + i * stage_halves<ColumnTiles>());
    }
    copy_async_commit();
  }
  row_scales<8 * ColumnTiles / (Slots * 4)> row_scale;
  row_scale.load(job.input, first_row);
  row_scale.finish(job.input, scales, first_row);
  float sum[RowTiles][ColumnTiles][4] = {};
  FORETOKEN_UNROLL_BY(1)
  for (int round = 0; round < rounds; ++round) {
    copy_async_wait<Stages - 2>();
    block_sync();
    if (round + Stages - 1 < rounds) {
      const int next = round + Stages - 1;
      copy_weights(next);
      stage_round<threads, ColumnTiles>(job.input, padded, steps, first_row, next,
                                        halves + next % Stages * stage_halves<ColumnTiles>());
    }
    copy_async_commit();
    const std::uint16_t* const stage = halves + round % Stages * stage_halves<ColumnTiles>() +
                                       segment * 8 * ColumnTiles * stage_stride;
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; ++k) {
      if (round * round_steps + k >= steps) break;
      column_fragments<ColumnTiles> b;
      b.load(stage + k * 16, stage_stride, lane);
      FORETOKEN_UNROLL
      for (int w = 0; w < RowTiles; ++w) {
        std::uint32_t a[4];
        fragment_source<Form>::decode(
            slots + ((round % Stages * RowTiles + w) * round_steps + k) * slot_bytes, a);
        FORETOKEN_UNROLL
        for (int c = 0; c < ColumnTiles; ++c) mma(sum[w][c], a, b.b[c]);
      }
    }
  }
  copy_async_wait<0>();
  block_sync();  // the sums lie where the stages were
  const partial_sums<ColumnTiles> sums{reinterpret_cast<float*>(shared_memory()), 16 * block_tiles};
  store_sums<RowTiles, ColumnTiles>(sums, sum, segment, slot * RowTiles * 16, lane);
  block_sync();
  finish_tiles<threads, ColumnTiles>(job, epilogue, sums, scales, base, block_tiles, first_row);
}

}  // namespace foretoken::gpu
