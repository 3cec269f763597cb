// SPDX-License-Identifier: Apache-2.0
#pragma once
// The product for ten to some hundred rows, by the wide matrix instruction: a cluster of four
// blocks has 64 n and `Rows` rows, each block one segment of K, whole in its shared memory. Their
// sums meet in the block that finishes a fourth of the rows. One multiplication in a row of a few
// hundred instructions: what it reads arrives at once, and what follows it is read meanwhile. 2 N K
// M operations; a block of 64 n and 64 rows of K = 576 reads 36 KB for 589,824 products.

#include "gpu/block_cluster.cuh"
#include "gpu/linear.cuh"
#include "gpu/wide_mma.cuh"

namespace foretoken::gpu {

constexpr int split_threads = 128;
constexpr int split_tiles = 4;     // of 16 n: one a warp
constexpr int split_segments = 4;  // blocks of a cluster

// Shared memory: atoms of rows, fragments [step][warp], sums [segment][column tile][thread],
// scales. Offsets in bytes; `steps` of a segment.
template <int Rows>
struct split_layout {
  int steps;
  static constexpr int columns = Rows / 8 / split_segments;  // tiles of rows that a block finishes
  static constexpr int atom_bytes = Rows * atom_row_bytes;
  FORETOKEN_BOTH constexpr int atoms() const { return (steps + 3) / 4; }
  FORETOKEN_BOTH constexpr int weights_at() const { return atoms() * atom_bytes; }
  FORETOKEN_BOTH constexpr int sums_at() const {
    return weights_at() + steps * split_tiles * slot_bytes;
  }
  FORETOKEN_BOTH constexpr int scale_at() const { return sums_at() + Rows * 64 * 4; }
  FORETOKEN_BOTH constexpr int bytes() const { return scale_at() + 8 * columns * 4; }
};

// Starts to copy the weights of a segment of a warp's tile; `to`: the thread's part of the first
// fragment.
template <weight_form Form>
FORETOKEN_DEVICE void copy_segment(
    const linear_job& job, int tile, int steps, int segment, unsigned char* to) {
  const fragment_source<Form> source(job.w, tile * 16 < job.w.rows ? tile : 0, steps * 4,
                                     thread_index() % 32);
  FORETOKEN_UNROLL_BY(1)
  for (int k = 0; k < steps; ++k) {
    source.copy(to + k * split_tiles * slot_bytes, segment * steps + k);
  }
}

// The order in which every kernel adds a value's segments.
FORETOKEN_DEVICE float in_order(float s0, float s1, float s2, float s3) {
  return ((s0 + s1) + s2) + s3;
}

// Starts to copy a segment's columns of the block's rows to `atoms`, by one warpgroup, eight
// threads a row of an atom. Rows that are not there stay as they are: columns of a product do not
// mix.
template <int Rows>
FORETOKEN_DEVICE void stage_atoms(
    const linear_input& in, int first_row, int steps, int segment, unsigned char* atoms) {
  constexpr int together = split_threads / 8;
  const int piece = thread_index() % 8;
  const std::size_t padded = wide(padded_columns(in.columns));
  FORETOKEN_UNROLL
  for (int i = 0; i < (Rows + together - 1) / together; ++i) {
    const int r = thread_index() % split_threads / 8 + i * together;
    if (r >= Rows || first_row + r >= in.rows) continue;
    const std::uint16_t* const from = in.halves + wide(source_row(in, first_row + r)) * padded +
                                      wide(segment * steps * 16 + piece * 8);
    unsigned char* const to = atoms + swizzled(r, piece);
    FORETOKEN_UNROLL_BY(1)
    for (int p = piece; p < 2 * steps; p += 8) {
      copy_async_16(to + p / 8 * (Rows * atom_row_bytes), from + (p - piece) * 8);
    }
  }
  copy_async_commit();
}

// Products of up to four k-steps, from `step` on. Registers of weights stay as they are while
// products run: what was read ahead of the next group beside them came out wrong.
template <weight_form Form, int Rows, int Count>
FORETOKEN_DEVICE void multiply_steps(float (&sum)[Rows / 8][4],
                                     const unsigned char* weights,
                                     std::uint32_t atoms,
                                     int step) {
  std::uint32_t a[Count][4];
  FORETOKEN_UNROLL
  for (int k = 0; k < Count; ++k) {
    fragment_source<Form>::decode(weights + (step + k) * (split_tiles * slot_bytes), a[k]);
  }
  hold(a);
  hold(sum);
  wide_begin();
  FORETOKEN_UNROLL
  for (int k = 0; k < Count; ++k) {
    wide_mma(sum, a[k], atom_descriptor(atoms + step / 4 * (Rows * atom_row_bytes), step % 4 + k));
  }
  wide_commit();
  wide_wait<0>();
  hold(a);
  hold(sum);
}

// The sums of one segment.
template <weight_form Form, int Rows>
FORETOKEN_DEVICE void split_products(float (&sum)[Rows / 8][4],
                                     const unsigned char* weights,
                                     std::uint32_t atoms,
                                     int steps) {
  int step = 0;
  FORETOKEN_UNROLL_BY(1)
  for (; step + 4 <= steps; step += 4) multiply_steps<Form, Rows, 4>(sum, weights, atoms, step);
  FORETOKEN_UNROLL_BY(1)
  for (; step < steps; ++step) multiply_steps<Form, Rows, 1>(sum, weights, atoms, step);
}

// Sums of all four segments for the rows that this block finishes.
template <int Rows>
FORETOKEN_DEVICE void exchange_sums(const float (&sum)[Rows / 8][4],
                                    float (&total)[split_layout<Rows>::columns][4],
                                    unsigned char* at,
                                    int segment) {
  constexpr int columns = split_layout<Rows>::columns;
  const auto place = [&](int from, int c) {
    return at + ((from * columns + c) * split_threads + thread_index()) * 16;
  };
  FORETOKEN_UNROLL
  for (int c = 0; c < Rows / 8; ++c)
    store_in_cluster(shared_address(place(segment, c % columns)), c / columns, sum[c]);
  cluster_arrive();
  cluster_wait();
  FORETOKEN_UNROLL
  for (int c = 0; c < columns; ++c) {
    f32x4 part[split_segments];
    FORETOKEN_UNROLL
    for (int s = 0; s < split_segments; ++s) part[s] = *reinterpret_cast<const f32x4*>(place(s, c));
    total[c][0] = in_order(part[0].x, part[1].x, part[2].x, part[3].x);
    total[c][1] = in_order(part[0].y, part[1].y, part[2].y, part[3].y);
    total[c][2] = in_order(part[0].z, part[1].z, part[2].z, part[3].z);
    total[c][3] = in_order(part[0].w, part[1].w, part[2].w, part[3].w);
  }
}

template <weight_form Form, int Rows, class Epilogue>
FORETOKEN_KERNEL(split_threads, 3)
linear_split(const linear_job job, const Epilogue epilogue) {
#if FORETOKEN_WIDE
  constexpr int columns = split_layout<Rows>::columns;
  const int lane = thread_index() % 32;
  const int segment = block_x() % split_segments;  // the block's rank in its cluster
  const int tile = block_x() / split_segments * split_tiles + thread_index() / 32;
  const int steps = padded_columns(job.input.columns) / 64;
  const split_layout<Rows> at{steps};
  const int first_row = block_y() * Rows;
  const int own_row = first_row + segment * 8 * columns;
  unsigned char* const weights =
      shared_memory() + at.weights_at() + thread_index() / 32 * slot_bytes + lane * 16;
  auto* const scales = reinterpret_cast<float*>(shared_memory() + at.scale_at());

  copy_segment<Form>(job, tile, steps, segment, weights);
  cluster_arrive();
  held_items<2 * columns, Epilogue> items(job, tile, own_row);
  items.before_wait(epilogue);
  wait_for_predecessor();
  release_successor();
  stage_atoms<Rows>(job.input, first_row, steps, segment, shared_memory());
  row_scales<8 * columns, split_threads> row_scale;
  row_scale.load(job.input, own_row);
  items.after_wait(epilogue);
  row_scale.finish(job.input, scales, own_row);
  copy_async_wait<0>();
  fence_shared_for_wide();
  block_sync();

  float sum[Rows / 8][4] = {};
  split_products<Form, Rows>(sum, weights, shared_address(shared_memory()), steps);
  cluster_wait();  // the others have begun
  float total[columns][4];
  exchange_sums<Rows>(sum, total, shared_memory() + at.sums_at(), segment);
  FORETOKEN_UNROLL
  for (int i = 0; i < 2 * columns; ++i) {
    items.finish(job, epilogue, i, total[i / 2][i % 2], total[i / 2][i % 2 + 2],
                 scales[items.item[i].row - own_row]);
  }
#else
  wide_missing();
#endif
}

}  // namespace foretoken::gpu
