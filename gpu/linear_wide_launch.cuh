// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which of the kernels of the wide matrix instruction runs, if any: a choice of speed only, their
// bits are those of the others. Emulated devices have none.

#include "gpu/launch.cuh"
#include "gpu/linear.cuh"
#if defined(__CUDACC__)
#include "gpu/linear_quad.cuh"
#include "gpu/linear_wide.cuh"
#endif

namespace foretoken::gpu {

constexpr bool is_wide(product_tile tile) {
  return tile >= product_tile::split_64x32;
}

#if defined(__CUDACC__)

// n x rows of a block; K-steps of a segment in fours, or in threes.
using wide_128x64_fours = wide_shape<2, 64, 4, 4, 2>;
using wide_128x64_threes = wide_shape<2, 64, 3, 5, 2>;
using wide_128x128_fours = wide_shape<2, 128, 4, 6, 1>;
using wide_128x128_threes = wide_shape<2, 128, 3, 6, 1>;

inline int segment_steps(const linear_job& job) {
  return padded_columns(job.input.columns) / 64;
}

// Whether the device and the product are such that this kernel can do it.
inline bool can_wide(const launch_context& on, product_tile tile, const linear_job& job) {
  if (!on.wide_mma) return false;
  const int steps = segment_steps(job);
  const auto fits = [&](int bytes) { return bytes <= on.shared_bytes_max; };
  const bool walks = job.input.which == nullptr && (steps % 4 == 0 || steps % 3 == 0);
  switch (tile) {
    case product_tile::split_64x32: return fits(split_layout<32>{steps}.bytes());
    case product_tile::split_64x64: return fits(split_layout<64>{steps}.bytes());
    case product_tile::quad_64x32: return fits(quad_layout<32>{steps}.bytes());
    case product_tile::quad_64x64: return fits(quad_layout<64>{steps}.bytes());
    case product_tile::quad_64x96: return fits(quad_layout<96>{steps}.bytes());
    case product_tile::wide_128x64: return walks && fits(wide_128x64_fours::bytes);
    case product_tile::wide_128x128: return walks && fits(wide_128x128_fours::bytes);
    default: return false;
  }
}

template <weight_form Form, int Rows, class Epilogue>
status launch_split(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  const int groups = blocks_of(job.w.rows / 16, split_tiles);
  return launch(on, linear_split<Form, Rows, Epilogue>,
                {groups * split_segments, blocks_of(job.input.rows, Rows), 1, split_segments},
                split_threads, split_layout<Rows>{segment_steps(job)}.bytes(), job, epilogue);
}

template <weight_form Form, int Rows, class Epilogue>
status launch_quad(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  return launch(on, linear_quad<Form, Rows, Epilogue>,
                {blocks_of(job.w.rows / 16, split_tiles), blocks_of(job.input.rows, Rows), 1},
                quad_threads, quad_layout<Rows>{segment_steps(job)}.bytes(), job, epilogue);
}

template <weight_form Form, class Fours, class Threes, class Epilogue>
status launch_walked(const launch_context& on, const linear_job& job, const Epilogue& epilogue) {
  const auto by = [&]<class Shape>() {
    return launch(
        on, linear_wide<Form, Shape, Epilogue>,
        {blocks_of(job.w.rows / 16, Shape::tiles), blocks_of(job.input.rows, Shape::rows), 1},
        Shape::threads, Shape::bytes, job, epilogue);
  };
  if (segment_steps(job) % 4 == 0) return by.template operator()<Fours>();
  return by.template operator()<Threes>();
}

// REQUIRES can_wide().
template <weight_form Form, class Epilogue>
status launch_wide(const launch_context& on,
                   product_tile tile,
                   const linear_job& job,
                   const Epilogue& epilogue) {
  switch (tile) {
    case product_tile::split_64x32: return launch_split<Form, 32>(on, job, epilogue);
    case product_tile::split_64x64: return launch_split<Form, 64>(on, job, epilogue);
    case product_tile::quad_64x32: return launch_quad<Form, 32>(on, job, epilogue);
    case product_tile::quad_64x64: return launch_quad<Form, 64>(on, job, epilogue);
    case product_tile::quad_64x96: return launch_quad<Form, 96>(on, job, epilogue);
    case product_tile::wide_128x64:
      return launch_walked<Form, wide_128x64_fours, wide_128x64_threes>(on, job, epilogue);
    default: break;
  }
  return launch_walked<Form, wide_128x128_fours, wide_128x128_threes>(on, job, epilogue);
}

// The smallest block of which one wave is enough, or two of a middle one; then blocks that walk the
// whole of K, when they fill the device. (gpu_step_bench --tiles, H100, 2026-11-24; from 9 rows on,
// H200, 2026-11-30: launch_form() asks before for fewer, where K is not too large for their kernel.
// `chosen`: another kernel.)
template <weight_form Form>
product_tile wide_tile_for(const launch_context& on, const linear_job& job) {
  struct candidate {
    product_tile tile;
    int tiles, rows, parts;      // of a block; blocks that share them
    int least, most, rows_from;  // blocks a hundred multiprocessors; rows of the step
  };
  using enum product_tile;
  constexpr bool quantised = Form != weight_form::f16;
  constexpr int any = 1 << 30;
  constexpr candidate candidates[] = {{quad_64x32, 4, 32, 1, 0, 100, 1},
                                      {quad_64x64, 4, 64, 1, 0, 100, 1},
                                      {quad_64x96, 4, 96, 1, 0, 100, 1},
                                      {quad_64x64, 4, 64, 1, 0, 200, 1},
                                      {split_64x32, 4, 32, 4, 0, 110, 1},
                                      {split_64x64, 4, 64, 4, 0, 110, 1},
                                      {wide_128x64, 8, 64, 1, quantised ? any : 90, any, 384},
                                      {wide_128x128, 8, 128, 1, quantised ? 60 : any, any, 1024}};
  for (const candidate& each : candidates) {
    const int blocks =
        blocks_of(job.w.rows / 16, each.tiles) * blocks_of(job.input.rows, each.rows) * each.parts;
    const long long share = 100LL * blocks / on.multiprocessors;
    if (job.input.rows >= each.rows_from && share >= each.least && share <= each.most &&
        can_wide(on, each.tile, job)) {
      return each.tile;
    }
  }
  return chosen;
}

#else

inline bool can_wide(const launch_context&, product_tile, const linear_job&) {
  return false;
}
template <weight_form Form>
product_tile wide_tile_for(const launch_context&, const linear_job&) {
  return product_tile::chosen;
}
template <weight_form Form, class Epilogue>
status launch_wide(const launch_context&, product_tile, const linear_job&, const Epilogue&) {
  return {};
}

#endif

}  // namespace foretoken::gpu
