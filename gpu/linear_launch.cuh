// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which of the linear kernels runs, by the number of rows and the size of the matrix: a choice of
// speed only, their bits are equal.

#include "gpu/launch.cuh"
#include "gpu/linear_resident.cuh"
#include "gpu/linear_streamed.cuh"
#include "gpu/linear_tiled.cuh"
#include "gpu/linear_wide_launch.cuh"

namespace foretoken::gpu {

// So that two blocks share a multiprocessor.
constexpr int resident_bytes_max = 112 << 10;

// The deep ring of f16 where a block stays below this. Codes need little, and blocks that take
// little crowd on few multiprocessors: narrow matrices take this much, two blocks a multiprocessor,
// whatever they need (SmolLM2, W4, 1 row: a step of 487 us instead of 572, when kernels still
// started their successors before they had waited; H100, 2026-11-24).
constexpr int narrow_bytes = 88 << 10;

template <weight_form Form, int ColumnTiles, int Slots, class Epilogue>
status launch_resident(const launch_context& on,
                       const linear_job& given,
                       const Epilogue& epilogue) {
  using ring = resident_ring<Form, ColumnTiles, Slots>;
  linear_job job = given;
  job.rounds = ring::deep;
  if (resident_bytes<Form, ColumnTiles, Slots>(job) > narrow_bytes) job.rounds = ring::shallow;
  int bytes = resident_bytes<Form, ColumnTiles, Slots>(job);
  const bool roomy = Slots == 1 && Form != weight_form::f16 && narrow_bytes <= on.shared_bytes_max;
  if (roomy && bytes < narrow_bytes) bytes = narrow_bytes;
  const int blocks = blocks_of(job.w.rows / 16, Slots);
  const int columns = blocks_of(job.input.rows, 8 * ColumnTiles);
  // As many as run at once, by shared memory.
  const int fit = bytes > resident_bytes_max ? 1 : bytes > 74 << 10 ? 2 : 3;
  const int all = on.multiprocessors * fit / columns;
  const int grid = blocks < all ? blocks : all < 1 ? 1 : all;
  return launch(on, linear_resident<Form, ColumnTiles, Slots, Epilogue>, {grid, columns, 1},
                Slots * 128, bytes, job, epilogue);
}

template <int RowTiles, int ColumnTiles, int Slots, int Stages>
constexpr int streamed_bytes() {
  return streamed_scale_at<ColumnTiles, Slots * RowTiles, Stages>() + 8 * ColumnTiles * 4;
}

template <weight_form Form, int RowTiles, int ColumnTiles, int Slots, int Stages, class Epilogue>
status launch_streamed(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  constexpr int bytes = streamed_bytes<RowTiles, ColumnTiles, Slots, Stages>();
  return launch(
      on, linear_streamed<Form, RowTiles, ColumnTiles, Slots, Stages, Epilogue>,
      {blocks_of(job.w.rows / 16, Slots * RowTiles), blocks_of(job.input.rows, 8 * ColumnTiles), 1},
      Slots * 128, bytes, job, epilogue);
}

template <weight_form Form, class Shape, class Epilogue>
status launch_tiled(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  return launch(
      on, linear_tiled<Form, Shape, Epilogue>,
      {blocks_of(job.w.rows / 16, Shape::tiles), blocks_of(job.input.rows, Shape::rows), 1},
      Shape::threads, Shape::bytes, job, epilogue);
}

// n x rows of a block
using tiled_64x64 = tiled_shape<2, 2, 2, 4, 4, 3>;
using tiled_128x64 = tiled_shape<4, 2, 2, 4, 4, 2>;

// The kernel by name. Shared memory must suffice.
template <weight_form Form, class Epilogue>
status launch_named(const launch_context& on,
                    product_tile tile,
                    const linear_job& job,
                    const Epilogue& epilogue) {
  switch (tile) {
    case product_tile::streamed_64x64: return launch_streamed<Form, 2, 8, 2, 3>(on, job, epilogue);
    case product_tile::streamed_32x64: return launch_streamed<Form, 1, 8, 2, 4>(on, job, epilogue);
    case product_tile::streamed_16x32_deep:
      return launch_streamed<Form, 1, 4, 1, 8>(on, job, epilogue);
    case product_tile::streamed_16x32: return launch_streamed<Form, 1, 4, 1, 4>(on, job, epilogue);
    case product_tile::tiled_64x64: return launch_tiled<Form, tiled_64x64>(on, job, epilogue);
    case product_tile::tiled_128x64: return launch_tiled<Form, tiled_128x64>(on, job, epilogue);
    default: break;
  }
  return launch_streamed<Form, 1, 4, 1, 3>(on, job, epilogue);  // 8.6 and 8.9 have 99 KB
}

inline int shared_bytes_of(product_tile tile) {
  switch (tile) {
    case product_tile::streamed_64x64: return streamed_bytes<2, 8, 2, 3>();
    case product_tile::streamed_32x64: return streamed_bytes<1, 8, 2, 4>();
    case product_tile::streamed_16x32_deep: return streamed_bytes<1, 4, 1, 8>();
    case product_tile::streamed_16x32: return streamed_bytes<1, 4, 1, 4>();
    case product_tile::tiled_64x64: return tiled_64x64::bytes;
    case product_tile::tiled_128x64: return tiled_128x64::bytes;
    default: break;
  }
  return streamed_bytes<1, 4, 1, 3>();
}

// The smallest block of which one wave is enough: a second wave costs as much as the first (bench
// gpu_step_bench --tiles, H100, 2026-11-24). Where none is, two waves of the largest whose four
// segments go side by side, or blocks that overlap on their multiprocessor.
inline product_tile tile_for(const launch_context& on, int tiles, int rows) {
  struct candidate {
    product_tile tile;
    int tiles, rows;  // of a block
    int fit;          // blocks a multiprocessor, all waves together
    int rows_from;    // of the step
  };
  using enum product_tile;
  constexpr candidate candidates[] = {
      {streamed_16x32_deep, 1, 32, 1, 1}, {streamed_16x32, 1, 32, 2, 1},
      {streamed_32x64, 2, 64, 1, 1},      {streamed_64x64, 4, 64, 1, 1},
      {streamed_64x64, 4, 64, 2, 513},    {tiled_64x64, 4, 64, 3, 1},
      {tiled_128x64, 8, 64, 1 << 20, 1}};
  const auto fits = [&](product_tile tile) { return shared_bytes_of(tile) <= on.shared_bytes_max; };
  for (const candidate& each : candidates) {
    const int blocks = blocks_of(tiles, each.tiles) * blocks_of(rows, each.rows);
    if (rows >= each.rows_from && fits(each.tile) && blocks <= on.multiprocessors * each.fit) {
      return each.tile;
    }
  }
  return fits(tiled_64x64) ? tiled_64x64 : streamed_16x32_shallow;
}

template <weight_form Form, class Epilogue>
status launch_many(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  if (is_wide(on.tile) && can_wide(on, on.tile, job)) {
    return launch_wide<Form>(on, on.tile, job, epilogue);
  }
  const bool named =
      on.tile != product_tile::chosen && shared_bytes_of(on.tile) <= on.shared_bytes_max;
  const product_tile tile = named ? on.tile : tile_for(on, job.w.rows / 16, job.input.rows);
  return launch_named<Form>(on, tile, job, epilogue);
}

// Two tiles a block when there are more than the device has multiprocessors.
template <weight_form Form, int ColumnTiles, class Epilogue>
status launch_few(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  const int blocks = job.w.rows / 16 * blocks_of(job.input.rows, 8 * ColumnTiles);
  if (blocks <= on.multiprocessors * 3 / 2) {
    return launch_resident<Form, ColumnTiles, 1>(on, job, epilogue);
  }
  return launch_resident<Form, ColumnTiles, 2>(on, job, epilogue);
}

template <weight_form Form, class Epilogue>
status launch_form(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  if (job.input.columns % 8 != 0) return unsupported("columns", "not whole eights");
  const int rows = job.input.rows;
  if (rows < 1) return {};
  if (on.tile != product_tile::chosen) return launch_many<Form>(on, job, epilogue);
  linear_job shallow = job;
  shallow.rounds = resident_ring<Form, 1, 2>::shallow;
  if (rows <= 8 && resident_bytes<Form, 1, 2>(shallow) <= on.shared_bytes_max) {
    return launch_few<Form, 1>(on, job, epilogue);
  }
  if (const product_tile wide = wide_tile_for<Form>(on, job); is_wide(wide)) {
    return launch_wide<Form>(on, wide, job, epilogue);
  }
  if (rows <= 16 && resident_bytes<Form, 2, 2>(shallow) <= on.shared_bytes_max) {
    return launch_few<Form, 2>(on, job, epilogue);
  }
  if (rows <= 32 && resident_bytes<Form, 4, 2>(shallow) <= on.shared_bytes_max) {
    return launch_few<Form, 4>(on, job, epilogue);
  }
  return launch_many<Form>(on, job, epilogue);
}

template <class Epilogue>
status launch_linear(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  switch (job.w.form) {
    case weight_form::f16: return launch_form<weight_form::f16>(on, job, epilogue);
    case weight_form::w8: return launch_form<weight_form::w8>(on, job, epilogue);
    case weight_form::w4: return launch_form<weight_form::w4>(on, job, epilogue);
  }
  return {};
}

// Layer norm is no row scale: it is applied before, by a kernel of its own (rows.cu).
status launch_layer_norm(const launch_context& on,
                         const norm_parameters& norm,
                         const workspace& work,
                         int rows,
                         int width);

// The input that norm(x) is. With a layer norm, launch_layer_norm comes first.
inline linear_input normed_input(const workspace& work,
                                 const norm_parameters& norm,
                                 int rows,
                                 int width) {
  linear_input in{work.normed, nullptr, work.squares, norm.epsilon, norm.range, rows, width};
  if (norm.kind == model::norm_kind::layer) in.squares = nullptr;
  return in;
}

}  // namespace foretoken::gpu
