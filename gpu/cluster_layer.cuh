// SPDX-License-Identifier: Apache-2.0
#pragma once
// The layers of a step, phase by phase, and the four warps that serve the FFN of the other twelve.

#include "gpu/cluster_begin.cuh"
#include "gpu/cluster_head.cuh"
#include "gpu/cluster_merge.cuh"

namespace foretoken::gpu::cluster {

// Clock readings of one layer by one thread, for the benchmark; compiled out where steps run.
template <bool On>
struct stopwatch {
  long long* to;
  bool here = false;
  int n = 0;
  FORETOKEN_DEVICE void lap() {
    if constexpr (On) {
      if (here) to[n++] = clock64();
    }
  }
};

// Item n by the n-th of the four warps that have no part in the FFN.
template <class S>
FORETOKEN_DEVICE void prefetch_spans(const block<S>& b, int layer) {
  if (layer >= b.job.model.layer_count) return;
  const auto* const pages = reinterpret_cast<const int*>(b.base() + memory<S>::pages);
  for (int n = b.warp - tile_warps; n < b.table().spans; n += other_warps) {
    const work_item item = b.table().item[n];
    for (int i = 0; i < span_pages && item.first + i * page_positions <= item.position; ++i) {
      prefetch_line(head_page(layer_pages(b, layer), pages[n * span_pages + i]) + b.lane * 64);
    }
  }
}

// sum / Count, rounded as a division is: one step of refinement with the rounded reciprocal
// (Markstein). Checked for every mantissa and the counts compiled in, 2026-11-24.
template <int Count>
FORETOKEN_DEVICE float divided(float sum) {
  constexpr float count = Count, reciprocal = 1.0f / count;
  const float near = sum * reciprocal;
  const float refined = fused_multiply_add(fused_multiply_add(-near, count, sum), reciprocal, near);
  return near < INFINITY ? refined : near;
}

// 1 / rms of rows 4 group .. 4 group + 3 by one warp, in the order of lane_order_sum: the tree of
// lanes is folded so that each quarter of the warp ends with one row.
template <class S>
FORETOKEN_DEVICE void row_scales(const block<S>& b, int which, int group) {
  using at = memory<S>;
  static_assert(S::tiles_width <= 64);
  const auto* const squares =
      reinterpret_cast<const f32x4*>(b.floats(at::squares) + which * at::squares_floats) +
      group * S::tiles_width;
  f32x4 v{0, 0, 0, 0};
  if (S::tiles_width >= 32 || b.lane < S::tiles_width) v = squares[b.lane];
  if (S::tiles_width > 32 && b.lane + 32 < S::tiles_width) {
    const f32x4 next = squares[b.lane + 32];
    v = {v.x + next.x, v.y + next.y, v.z + next.z, v.w + next.w};
  }
  const bool upper = (b.lane & 16) != 0, later = (b.lane & 8) != 0;
  const float one = (upper ? v.z : v.x) + shuffle_xor(upper ? v.x : v.z, 16);
  const float two = (upper ? v.w : v.y) + shuffle_xor(upper ? v.y : v.w, 16);
  float sum = (later ? two : one) + shuffle_xor(later ? one : two, 8);
  sum += shuffle_xor(sum, 4);
  sum += shuffle_xor(sum, 2);
  sum += shuffle_xor(sum, 1);
  const float scale = 1.0f / sqrtf(divided<S::width>(sum) + b.job.model.norm_epsilon);
  if (b.lane % 8 == 0) {
    b.floats(at::scale)[which * S::rows_in_fours + 4 * group + b.lane / 16 * 2 + (later ? 1 : 0)] =
        scale;
  }
  __syncwarp();
}
template <class S>
FORETOKEN_DEVICE int row_groups(const block<S>& b) {
  return (b.rows + 3) / 4;
}

// The four other warps from attention on, and before the head. An exchange that is complete here
// says that this block's twelve warps have waited for the barriers of what comes before it.
template <class S>
FORETOKEN_DEVICE void serve_ffn(block<S>& b, int layer) {
  b.forget();
  // The last meeting of all warps says the same, but racecheck may lose it (decision 0014).
  barrier_wait(b.handed(attention_read), layer & 1);
  const bool o_waits = b.table().values_in_o;
  if (o_waits) load_slots(b, matrix::o, layer);
  load_slots(b, matrix::g, layer);
  load_slots(b, matrix::d, layer);
  prefetch_spans(b, layer + 1);
  load_slots(b, matrix::q, layer + 1);
  await(b, to_ffn, layer);
  if (b.warp - tile_warps < row_groups(b)) row_scales(b, 1, b.warp - tile_warps);
  barrier_arrive(b.handed(scales_ready));
  // The exchange to the down projection is still this layer's.
  const bool later = b.lane != to_down;
  if (b.warp == tile_warps && b.lane < exchanges && (later || layer > 0)) {
    arm(b, static_cast<exchange>(b.lane));
  }
  __syncwarp();
  // Gate and up are multiplied and, before them, the output projection.
  barrier_wait(b.handed(gate_up_read), layer & 1);
  if (!o_waits) load_slots(b, matrix::o, layer + 1);
  load_early_values(b, layer + 1);
}
template <class S>
FORETOKEN_DEVICE void serve_head(const block<S>& b) {
  barrier_wait(b.arrival(to_next), b.job.model.layer_count & 1);
  if (b.warp - tile_warps < row_groups(b)) row_scales(b, 0, b.warp - tile_warps);
  barrier_arrive(b.handed(scales_ready));
}

// The weights of the warp's unit, before its inputs are awaited. Warps without one decode whatever
// is there: registers written on one path alone would be kept round the loop of layers.
template <int Steps, class S>
FORETOKEN_DEVICE decoded_unit<Steps> unit_weights(
    const block<S>& b, matrix m, int barrier_index, int layer, bool used) {
  if (used) barrier_wait(b.weight_barrier(b.warp, barrier_index), layer & 1);
  return decoded_unit<Steps>({slot_of(b, m), b.warp % parts, b.lane});
}

template <class S>
FORETOKEN_DEVICE void keep_sums(const block<S>& b, int sums_at, const float (&sum)[S::columns][4]) {
  store_unit(b.floats(sums_at) + b.warp * memory<S>::unit_floats, sum, b.rows);
}
// One unit by every warp, from weights that are ready; its sums go to `sums_at`.
template <class S, int Steps>
FORETOKEN_DEVICE void product(const block<S>& b,
                              int sums_at,
                              const decoded_unit<Steps>& weights,
                              const lane_inputs& inputs) {
  float sum[S::columns][4] = {};
  multiply<S::rows>(sum, weights, inputs);
  keep_sums(b, sums_at, sum);
}

// Where the warp's segment begins for this lane.
template <class S>
FORETOKEN_DEVICE lane_inputs qkv_inputs(const block<S>& b) {
  const int first = b.warp % parts * S::steps_width * step_bytes(S::rows);
  return in_order<S::rows>(b.base() + memory<S>::input + first, b.lane);
}
template <class S>
FORETOKEN_DEVICE lane_inputs hidden_inputs(const block<S>& b) {
  const int first = b.warp % parts * S::steps_ffn * step_bytes(S::rows);
  const int half = b.lane % 4 / 2, g = b.lane / 4;
  const int place = hidden_place(half, g, S::rows);
  lane_inputs out = in_order<S::rows>(b.base() + memory<S>::hidden + first, 0);
  FORETOKEN_UNROLL
  for (int j = 0; j < 4; ++j) out.at[j] += place + b.lane % 2 * 8;
  if constexpr (S::columns > 1) {
    out.column = hidden_place(half, second_row<S::rows>(g), S::rows) - place;
  }
  return out;
}
template <class S>
FORETOKEN_DEVICE lane_inputs output_inputs(const block<S>& b) {
  lane_inputs out;
  out.column = (second_row<S::rows>(b.lane / 4) - b.lane / 4) * 128;
  FORETOKEN_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int step = b.warp % parts * S::steps_out + j;
    out.at[j] = b.base() + memory<S>::output + step / 4 * 128 * S::rows +
                attended_place(b.lane / 4, step % 4 * 2 + b.lane % 4 / 2) + b.lane % 2 * 8;
  }
  return out;
}

template <class S, class Watch>
FORETOKEN_DEVICE void attention_half(
    block<S>& b, const qkv_plan& plan, int layer, int& values_phase, Watch& watch) {
  if (layer > 0 && b.warp < tile_warps) load_late_values(b, layer);  // down is multiplied
  lines l;
  load_keys<0, 2>(b, l, chunk_of(b, 0), layer);
  const auto weights = unit_weights<S::steps_width>(b, matrix::q, q_arrives, layer, duties_of(b).q);
  await(b, to_next, layer);
  watch.lap();
  // First the scales, which take long and little of the issue slots.
  if (warps - 1 - b.warp < row_groups(b)) row_scales(b, 0, warps - 1 - b.warp);
  if (duties_of(b).q) product(b, memory<S>::units, weights, qkv_inputs(b));
  part_sync<threads>(meet_qkv);
  b.forget();
  watch.lap();
  // Many keys would be in the way of what is finished here; few come in time if asked for now.
  const bool few = b.table().spans == 1;
  load_keys<2, chunk_pages>(b, l, few ? chunk_of(b, 0) : -1, layer);
  finish_qkv(b, plan, b.job.kv + (layer_pages(b, layer) - b.job.kv));
  if (!few) load_keys<2, chunk_pages>(b, l, chunk_of(b, 0), layer);
  watch.lap();
  if (b.table().bytes[to_attention] > 0) {
    await(b, to_attention, layer);
    b.forget();
    part_sync<threads>(meet_queries);  // chunks' results take the place of inputs, sums of q, k, v
    watch.lap();
    attend(b, l, layer, values_phase);
  } else {
    barrier_arrive(b.handed(attention_read));
  }
  watch.lap();
}

// The pairs of this block, and x += W_o a.
template <class S, class Watch>
FORETOKEN_DEVICE void output_product(block<S>& b,
                                     const residual_plan& plan,
                                     int layer,
                                     Watch& watch) {
  b.forget();
  if (b.table().bytes[to_merge] > 0) {
    await(b, to_merge, layer);
    b.forget();
    watch.lap();
    merge_spans(b);
  }
  watch.lap();
  const f32x2 gain = gains_for(b, plan, 2 * layer + 1);
  const auto weights = unit_weights<S::steps_out>(b, matrix::o, o_arrives, layer, duties_of(b).o);
  await(b, to_output, layer);
  b.forget();
  watch.lap();
  if (duties_of(b).o) product(b, memory<S>::output_units, weights, output_inputs(b));
  part_sync<tile_threads>(meet_output);
  b.forget();
  finish_residual(b, plan, memory<S>::output_units, gain, 1, to_ffn);
  watch.lap();
}

// h = silu(gate) * up.
template <class S, class Watch>
FORETOKEN_DEVICE void hidden_product(block<S>& b, int layer, Watch& watch) {
  using at = memory<S>;
  if (duties_of(b).g) barrier_wait(b.weight_barrier(b.warp, g_arrives), layer & 1);
  await(b, to_ffn, layer);
  b.forget();
  watch.lap();
  float total[S::columns][4] = {};
  if (duties_of(b).g) {
    tile_sums<S::steps_width, S::rows>(total, b.base() + at::input, [&](int s) {
      return static_cast<const char*>(slot_of(b, matrix::g, s));
    });
  }
  barrier_arrive(b.handed(gate_up_read));
  barrier_wait(b.handed(scales_ready), layer & 1);
  watch.lap();
  if (duties_of(b).g) finish_hidden(b, total);
  watch.lap();
}

// x += W_down h.
template <class S, class Watch>
FORETOKEN_DEVICE void down_product(block<S>& b,
                                   const residual_plan& plan,
                                   int layer,
                                   Watch& watch) {
  const f32x2 gain = gains_for(b, plan, 2 * layer + 2);
  if (duties_of(b).d) barrier_wait(b.weight_barrier(b.warp, d_arrives), layer & 1);
  await(b, to_down, layer);
  b.forget();
  watch.lap();
  if (duties_of(b).d) {
    float sum[1][S::columns][4] = {};
    unit_reader<S::steps_ffn, S::rows> reader[1] = {
        {slot_of(b, matrix::d), hidden_inputs(b), b.warp % parts, b.lane}};
    unit_sums(sum, reader);
    keep_sums(b, memory<S>::down_units, sum[0]);
  }
  part_sync<tile_threads>(meet_down);
  b.forget();
  finish_residual(b, plan, memory<S>::down_units, gain, 0, to_next);
  watch.lap();
}

template <class S, class Watch>
FORETOKEN_DEVICE void run_layers(block<S>& b, Watch& watch) {
  qkv_plan plan = plan_qkv(b);
  const residual_plan residual = plan_residual(b);
  follow(b);
  if (b.warp < tile_warps) send_embedding(b, residual);
  plan_append(b, plan);
  load_values(b, chunk_of(b, 0), 0);
  if (b.lane == 0 && duties_of(b).o && !b.table().values_in_o) {
    load_record(b, b.warp, matrix::o, 0);
  }
  __syncwarp();
  int values_phase = 0;
  for (int layer = 0; layer < b.job.model.layer_count; ++layer) {
    watch.here = blockIdx.x == 0 && b.thread == 0 && layer == b.job.model.layer_count / 3;
    watch.lap();
    b.forget();
    attention_half(b, plan, layer, values_phase, watch);
    if (b.warp < tile_warps) {
      output_product(b, residual, layer, watch);
      hidden_product(b, layer, watch);
      down_product(b, residual, layer, watch);
    } else {
      serve_ffn(b, layer);
    }
  }
}

template <class S>
FORETOKEN_DEVICE void run_head(block<S>& b) {
  best_of_rows<S> best;
  FORETOKEN_UNROLL
  for (int c = 0; c < S::columns; ++c) {
    best.logit[c][0] = best.logit[c][1] = -INFINITY;
    best.id[c][0] = best.id[c][1] = -1;
  }
  if (b.warp < tile_warps) {
    if (b.lane == 0) {
      load_head_tile(b, 0);
      load_head_tile(b, 1);
    }
    __syncwarp();
    barrier_wait(b.arrival(to_next), b.job.model.layer_count & 1);
    barrier_wait(b.handed(scales_ready), b.job.model.layer_count & 1);
    head_tiles(b, best, duties_of(b).g ? b.job.model.layer_count : 0);
  } else {
    serve_head(b);
  }
  send_best(b, best);
}

}  // namespace foretoken::gpu::cluster
