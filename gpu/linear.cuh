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

namespace foretoken::gpu {

struct linear_job {
  linear_input input;
  packed_matrix w;
};

// ---- weights as A fragments
// ----------------------------------------------------------------------

template <weight_form Form>
struct fragment_source;

// One tile's stream, the lane's part of it.
template <>
struct fragment_source<weight_form::f16> {
  struct raw {
    u32x4 codes;
  };
  const unsigned char* at;
  FORETOKEN_DEVICE fragment_source(const packed_matrix& w, int tile, int steps, int lane)
      : at(static_cast<const unsigned char*>(w.codes) + wide(tile) * wide(steps) * 512 +
           lane * 16) {}
  FORETOKEN_DEVICE raw load(int step) const { return {load_weights_16(at + wide(step) * 512)}; }
  FORETOKEN_DEVICE static void decode(const raw& from, std::uint32_t (&a)[4]) {
    a[0] = from.codes.x;
    a[1] = from.codes.y;
    a[2] = from.codes.z;
    a[3] = from.codes.w;
  }
};

// scale and minimum of the lane's two rows, doubled into both halves
struct group_scales {
  std::uint32_t scale[2], minimum[2];
  FORETOKEN_DEVICE group_scales(std::uint32_t low, std::uint32_t high) {
    scale[0] = pick_bytes(low, low, 0x1010);
    minimum[0] = pick_bytes(low, low, 0x3232);
    scale[1] = pick_bytes(high, high, 0x1010);
    minimum[1] = pick_bytes(high, high, 0x3232);
  }
  // 1024 + code in both halves (an exact f16) to scale * code + minimum
  FORETOKEN_DEVICE std::uint32_t apply(std::uint32_t biased, int row) const {
    return half_pair_fma(scale[row], half_pair_subtract(biased, 0x64006400u), minimum[row]);
  }
};

template <>
struct fragment_source<weight_form::w8> {
  struct raw {
    u32x2 codes;
    std::uint32_t low, high;
  };
  const unsigned char* at;
  const std::uint32_t* scales;
  FORETOKEN_DEVICE fragment_source(const packed_matrix& w, int tile, int steps, int lane)
      : at(static_cast<const unsigned char*>(w.codes) + wide(tile) * wide(steps) * 256 + lane * 8),
        scales(w.scales + wide(tile) * wide(steps) * 8 + lane / 4) {}
  FORETOKEN_DEVICE raw load(int step) const {
    const std::uint32_t* s = scales + wide(step / 2) * 16;
    return {load_weights_8(at + wide(step) * 256), load_weights_4(s), load_weights_4(s + 8)};
  }
  FORETOKEN_DEVICE static void decode(const raw& from, std::uint32_t (&a)[4]) {
    const group_scales groups(from.low, from.high);
    a[0] = groups.apply(pick_bytes(from.codes.x, 0x64646464u, 0x4140), 0);
    a[1] = groups.apply(pick_bytes(from.codes.x, 0x64646464u, 0x4342), 1);
    a[2] = groups.apply(pick_bytes(from.codes.y, 0x64646464u, 0x4140), 0);
    a[3] = groups.apply(pick_bytes(from.codes.y, 0x64646464u, 0x4342), 1);
  }
};

template <>
struct fragment_source<weight_form::w4> {
  struct raw {
    std::uint32_t codes, low, high;
  };
  const unsigned char* at;
  const std::uint32_t* scales;
  FORETOKEN_DEVICE fragment_source(const packed_matrix& w, int tile, int steps, int lane)
      : at(static_cast<const unsigned char*>(w.codes) + wide(tile) * wide(steps) * 128 + lane * 4),
        scales(w.scales + wide(tile) * wide(steps) * 8 + lane / 4) {}
  FORETOKEN_DEVICE raw load(int step) const {
    const std::uint32_t* s = scales + wide(step / 2) * 16;
    return {load_weights_4(at + wide(step) * 128), load_weights_4(s), load_weights_4(s + 8)};
  }
  FORETOKEN_DEVICE static void decode(const raw& from, std::uint32_t (&a)[4]) {
    const group_scales groups(from.low, from.high);
    FORETOKEN_UNROLL
    for (int r = 0; r < 4; ++r) {
      a[r] = groups.apply((from.codes >> (4 * r) & 0x000F000Fu) | 0x64006400u, r % 2);
    }
  }
};

// ---- the product of one warp
// ---------------------------------------------------------------------

// B fragments of ColumnTiles tiles at 16 columns from `halves`, multiplied into the sums.
template <int RowTiles, int ColumnTiles>
FORETOKEN_DEVICE void multiply_step(float (&sum)[RowTiles][ColumnTiles][4],
                                    const std::uint32_t (&a)[RowTiles][4],
                                    const std::uint16_t* halves,
                                    int stride,
                                    int lane) {
  if constexpr (ColumnTiles == 1) {
    std::uint32_t b[2];
    load_matrices_2(b, halves + lane % 8 * stride + lane / 8 % 2 * 8);
    FORETOKEN_UNROLL
    for (int w = 0; w < RowTiles; ++w) mma(sum[w][0], a[w], b);
  } else {
    FORETOKEN_UNROLL
    for (int c = 0; c < ColumnTiles; c += 2) {
      std::uint32_t both[4];
      load_matrices_4(both,
                      halves + (8 * c + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
      const std::uint32_t b0[2] = {both[0], both[1]};
      const std::uint32_t b1[2] = {both[2], both[3]};
      FORETOKEN_UNROLL
      for (int w = 0; w < RowTiles; ++w) {
        mma(sum[w][c], a[w], b0);
        mma(sum[w][c + 1], a[w], b1);
      }
    }
  }
}

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

// Adds the segments and hands pairs (rows g and g + 8 of a tile) to the epilogue, g in the lane's
// lowest three bits. All lanes of a warp come along, also for rows that are not there.
template <int Threads, int ColumnTiles, class Epilogue>
FORETOKEN_DEVICE void finish_tiles(const linear_job& job,
                                   const Epilogue& epilogue,
                                   const partial_sums<ColumnTiles>& sums,
                                   const float* scales,
                                   int first_tile,
                                   int tiles,
                                   int first_row) {
  constexpr int columns = 8 * ColumnTiles;
  const int g = thread_index() % 8;
  for (int i = thread_index() / 8; i < tiles * columns; i += Threads / 8) {
    const int column = i % columns;
    const int r = i / columns * 16 + g;
    const int tile = first_tile + i / columns;
    const int row = first_row + column;
    const bool wanted = row < job.input.rows && tile * 16 < job.w.rows;
    float y[2];
    FORETOKEN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int n = tile * 16 + g + 8 * h;
      float v = sums.row(0, r + 8 * h)[column] + sums.row(1, r + 8 * h)[column];
      v += sums.row(2, r + 8 * h)[column];
      v += sums.row(3, r + 8 * h)[column];
      v *= scales[column];
      if (wanted && job.w.row_scale != nullptr) v *= job.w.row_scale[n];
      if (wanted && job.w.bias != nullptr) v += job.w.bias[n];
      y[h] = v;
    }
    epilogue.pair(tile, g, row, y[0], y[1], wanted);
  }
}

// ---- few rows
// ------------------------------------------------------------------------------------

// Fragments in flight a warp: 8 are 4 KB; four warps a block, two and more blocks a multiprocessor
// keep the 25 to 64 KB under way that memory latency asks for.
template <weight_form Form>
constexpr int resident_depth() {
  return Form == weight_form::f16 ? 12 : 8;
}

template <weight_form Form, int ColumnTiles, int Slots, class Epilogue>
FORETOKEN_KERNEL(Slots * 128, 1)
linear_resident(const linear_job job, const Epilogue epilogue) {
  constexpr int threads = Slots * 128;
  constexpr int depth = resident_depth<Form>();
  using source = fragment_source<Form>;
  const int lane = thread_index() % 32;
  const int segment = thread_index() / 32 % 4;
  const int slot = thread_index() / 128;
  const int tiles = job.w.rows / 16;
  const int padded = padded_columns(job.input.columns);
  const int steps = padded / 64;
  const input_layout at{8 * ColumnTiles, padded};
  const partial_sums<ColumnTiles> sums{reinterpret_cast<float*>(shared_memory() + at.end()),
                                       16 * Slots};
  const auto* const halves = reinterpret_cast<const std::uint16_t*>(shared_memory());
  const auto* const scales = reinterpret_cast<const float*>(shared_memory() + at.scale_at());
  const int first_row = block_y() * 8 * ColumnTiles;

  typename source::raw ring[depth];
  const auto fill = [&](int tile) {
    const source from(job.w, tile < tiles ? tile : 0, steps * 4, lane);
    FORETOKEN_UNROLL
    for (int i = 0; i < depth; ++i) {
      if (i < steps) ring[i] = from.load(segment * steps + i);
    }
  };
  fill(block_x() * Slots + slot);
  release_successor();
  wait_for_predecessor();
  stage_rows(job.input, at, first_row, threads);
  block_sync();

  for (int base = block_x() * Slots; base < tiles; base += grid_x() * Slots) {
    const int tile = base + slot < tiles ? base + slot : 0;
    const source from(job.w, tile, steps * 4, lane);
    const std::uint16_t* const segment_halves = halves + segment * steps * 16;
    float sum[1][ColumnTiles][4] = {};
    for (int s = 0; s < steps; s += depth) {
      FORETOKEN_UNROLL
      for (int i = 0; i < depth; ++i) {
        if (s + i >= steps) break;
        std::uint32_t a[1][4];
        source::decode(ring[i], a[0]);
        if (s + i + depth < steps) ring[i] = from.load(segment * steps + s + i + depth);
        multiply_step<1, ColumnTiles>(sum, a, segment_halves + (s + i) * 16, at.stride(), lane);
      }
    }
    store_sums<1, ColumnTiles>(sums, sum, segment, slot * 16, lane);
    if (base + grid_x() * Slots < tiles) fill(base + grid_x() * Slots + slot);
    block_sync();
    finish_tiles<threads, ColumnTiles>(job, epilogue, sums, scales, base, Slots, first_row);
    block_sync();
  }
}

template <int ColumnTiles, int Slots>
int resident_bytes(const linear_job& job) {
  const input_layout at{8 * ColumnTiles, padded_columns(job.input.columns)};
  return at.end() + partial_sums<ColumnTiles>::bytes(16 * Slots);
}

// ---- many rows
// -----------------------------------------------------------------------------------

constexpr int round_steps = 4;  // k-steps of one stage of the ring
constexpr int stage_stride = round_steps * 16 + 8;

template <int ColumnTiles>
constexpr int stage_halves() {
  return 4 * 8 * ColumnTiles * stage_stride;
}

template <int ColumnTiles, int BlockTiles, int Stages>
constexpr int streamed_scale_at() {
  constexpr int ring = Stages * stage_halves<ColumnTiles>() * 2;
  constexpr int sums = partial_sums<ColumnTiles>::bytes(16 * BlockTiles);
  return ring > sums ? ring : sums;
}

// Stage `round` of the ring: columns [64 round, ..) of every segment.
template <int Threads, int ColumnTiles>
FORETOKEN_DEVICE void stage_round(
    const linear_input& in, int padded, int steps, int first_row, int round, std::uint16_t* stage) {
  constexpr int rows = 8 * ColumnTiles;
  constexpr int pieces = 4 * rows * round_steps * 2;       // of 8 halves
  const int columns = (steps - round * round_steps) * 16;  // left in a segment
  FORETOKEN_UNROLL
  for (int i = thread_index(); i < pieces; i += Threads) {
    const int column = i % (round_steps * 2) * 8;
    const int r = i / (round_steps * 2) % rows;
    const int segment = i / (round_steps * 2) / rows;
    if (column >= columns) continue;
    std::uint16_t* const to = stage + (segment * rows + r) * stage_stride + column;
    if (first_row + r < in.rows) {
      copy_async_16(to, in.halves + wide(source_row(in, first_row + r)) * wide(padded) +
                            wide((segment * steps + round * round_steps) * 16 + column));
    } else {
      *reinterpret_cast<u32x4*>(to) = u32x4{0, 0, 0, 0};
    }
  }
}

template <weight_form Form, int RowTiles, int ColumnTiles, int Slots, class Epilogue>
FORETOKEN_KERNEL(Slots * 128, 1)
linear_streamed(const linear_job job, const Epilogue epilogue) {
  constexpr int threads = Slots * 128;
  constexpr int stages = 3;
  constexpr int block_tiles = Slots * RowTiles;
  using source = fragment_source<Form>;
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
  auto* const scales = reinterpret_cast<float*>(
      shared_memory() + streamed_scale_at<ColumnTiles, block_tiles, stages>());

  typename source::raw ring[round_steps][RowTiles];
  const auto load = [&](int i, int step) {
    FORETOKEN_UNROLL
    for (int w = 0; w < RowTiles; ++w) {
      const int tile = base + slot * RowTiles + w;
      ring[i][w] =
          source(job.w, tile < tiles ? tile : 0, steps * 4, lane).load(segment * steps + step);
    }
  };
  FORETOKEN_UNROLL
  for (int i = 0; i < round_steps; ++i) {
    if (i < steps) load(i, i);
  }
  release_successor();
  wait_for_predecessor();
  FORETOKEN_UNROLL
  for (int i = 0; i < stages - 1; ++i) {
    if (i < rounds) {
      stage_round<threads, ColumnTiles>(job.input, padded, steps, first_row, i,
                                        halves + i * stage_halves<ColumnTiles>());
    }
    copy_async_commit();
  }
  row_scales(job.input, scales, first_row, 8 * ColumnTiles, threads);
  float sum[RowTiles][ColumnTiles][4] = {};
  for (int round = 0; round < rounds; ++round) {
    copy_async_wait<stages - 2>();
    block_sync();
    if (round + stages - 1 < rounds) {
      stage_round<threads, ColumnTiles>(
          job.input, padded, steps, first_row, round + stages - 1,
          halves + (round + stages - 1) % stages * stage_halves<ColumnTiles>());
    }
    copy_async_commit();
    const std::uint16_t* const stage = halves + round % stages * stage_halves<ColumnTiles>() +
                                       segment * 8 * ColumnTiles * stage_stride;
    FORETOKEN_UNROLL
    for (int i = 0; i < round_steps; ++i) {
      const int step = round * round_steps + i;
      if (step >= steps) break;
      std::uint32_t a[RowTiles][4];
      FORETOKEN_UNROLL
      for (int w = 0; w < RowTiles; ++w) source::decode(ring[i][w], a[w]);
      if (step + round_steps < steps) load(i, step + round_steps);
      multiply_step<RowTiles, ColumnTiles>(sum, a, stage + i * 16, stage_stride, lane);
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
