// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which of the linear kernels runs, by the number of rows and the size of the matrix: a choice of
// speed only, their bits are equal.

#include "gpu/launch.cuh"
#include "gpu/linear.cuh"

namespace foretoken::gpu {

// So that two blocks share a multiprocessor.
constexpr int resident_bytes_max = 112 << 10;

constexpr int blocks_of(int n, int size) {
  return (n + size - 1) / size;
}

template <weight_form Form, int ColumnTiles, int Slots, class Epilogue>
status launch_resident(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  const int bytes = resident_bytes<ColumnTiles, Slots>(job);
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

template <weight_form Form, class Epilogue>
status launch_many(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  const int tiles = job.w.rows / 16;
  const int rows = job.input.rows;
  const auto fits = [&](int bytes) { return bytes <= on.shared_bytes_max; };
  // 64 n x 64 rows a block when that fills the device, else smaller blocks.
  if (rows > 32 && blocks_of(tiles, 4) * blocks_of(rows, 64) >= on.multiprocessors &&
      fits(streamed_bytes<2, 8, 2, 3>())) {
    return launch_streamed<Form, 2, 8, 2, 3>(on, job, epilogue);
  }
  if (rows > 32 && blocks_of(tiles, 2) * blocks_of(rows, 64) >= on.multiprocessors &&
      fits(streamed_bytes<1, 8, 2, 4>())) {
    return launch_streamed<Form, 1, 8, 2, 4>(on, job, epilogue);
  }
  // Narrow matrices leave a multiprocessor one block: it keeps more under way.
  if (tiles * blocks_of(rows, 32) <= on.multiprocessors && fits(streamed_bytes<1, 4, 1, 8>())) {
    return launch_streamed<Form, 1, 4, 1, 8>(on, job, epilogue);
  }
  if (fits(streamed_bytes<1, 4, 1, 4>())) {
    return launch_streamed<Form, 1, 4, 1, 4>(on, job, epilogue);
  }
  return launch_streamed<Form, 1, 4, 1, 3>(on, job, epilogue);  // 8.6 and 8.9 have 99 KB
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
  if (rows <= 8 && resident_bytes<1, 2>(job) <= on.shared_bytes_max) {
    return launch_few<Form, 1>(on, job, epilogue);
  }
  if (rows <= 16 && resident_bytes<2, 2>(job) <= on.shared_bytes_max) {
    return launch_few<Form, 2>(on, job, epilogue);
  }
  if (rows <= 32 && resident_bytes<4, 2>(job) <= on.shared_bytes_max) {
    return launch_few<Form, 4>(on, job, epilogue);
  }
  if (rows <= 64 && resident_bytes<4, 2>(job) <= resident_bytes_max &&
      resident_bytes<4, 2>(job) <= on.shared_bytes_max) {
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
