// SPDX-License-Identifier: Apache-2.0
// A whole decode step of a small Llama-like model in one launch; a cluster of 16 blocks a lane.
//
//   x = embedding[token]
//   each layer: q, k, v = W f16(x gain) / rms, rotated, k and v appended; a = attention(q);
//               x += W_o a; h = silu(gate) * up of W f16(x gain) / rms; x += W_down h
//   token = argmax W_head f16(x gain) / rms
//
// Rows: the 1..8 of a lane are the columns of m16n8k16; tiles of 16 weight rows are spread over
// the blocks. Every block holds all inputs of its next product, as B fragments; whoever finishes 8
// values of a row stores them into the 16 blocks (st.async), whose barriers count bytes: no cluster
// barrier inside the step. Weights arrive by bulk copies a layer ahead, each warp for itself.
//
// Why no buffer is overwritten early, and no barrier completes with another layer's bytes. Six
// exchanges a layer: q k v -> attention -> merge -> output projection -> FFN -> down -> next layer.
// To the output projection, the FFN, down and next every block sends, or waits for what needs every
// block: a block that has one of these four complete knows that all blocks have done what comes
// before it. Each of the two others lies between two of them. So a value of layer l + 1 can only be
// sent when all blocks have used that buffer's value of layer l. Inside a block the barrier before
// a product orders the threads that finished the product before it.
//
// SmolLM2-135M, W4: 76 MB of layers and 18 MB of head a step and cluster, most of them out of the
// L2 cache when lanes run in step; 23 KB of keys and values a position and row. Products: 216 MFLOP
// a row. Issue slots bound it, about 16 a k16 step of a tile: 243 steps a layer and scheduler.

#include <string>

#include "gpu/cluster_attention.cuh"
#include "gpu/cluster_head.cuh"
#include "gpu/cluster_step.hpp"

namespace foretoken::gpu::cluster {
namespace {

// Clock readings of one layer by one thread, for the benchmark.
struct stopwatch {
  long long* to;
  bool on = false;
  int n = 0;
  FORETOKEN_DEVICE void lap() {
    if (on) to[n++] = clock64();
  }
};

template <class S>
FORETOKEN_DEVICE void fill_rows(const block<S>& b) {
  tables& t = b.table();
  if (b.thread < b.rows) {
    const int token = b.rows_of.token[b.thread];
    t.token[b.thread] = token < 0 ? b.rows_of.previous[-1 - token] : token;
    t.position[b.thread] = b.rows_of.position[b.thread];
    t.table[b.thread] = b.rows_of.table[b.thread];
    t.newest_page[b.thread] = b.job.page_tables[wide(t.table[b.thread]) * wide(b.job.table_stride) +
                                                wide(t.position[b.thread] / page_positions)];
  }
  if (b.thread == 0) t.clamped = 0;
}

FORETOKEN_DEVICE int spans_of(int position) {
  return position / span_positions + 1;
}

// Spans of all pairs are numbered through; span s belongs to block s % 16, its pair to pair % 16.
template <class S>
FORETOKEN_DEVICE void fill_pairs(const block<S>& b) {
  tables& t = b.table();
  const int pairs = b.rows * S::kv_heads;
  if (b.thread <= pairs) {
    int first = 0, slot = 0;
    for (int p = 0; p < b.thread; ++p) {
      const int spans = spans_of(t.position[p / S::kv_heads]);
      first += spans;
      if (p % blocks == b.thread % blocks) slot += spans;
    }
    t.first_span[b.thread] = first;
    if (b.thread < pairs) {
      t.first_slot[b.thread] = slot;
      std::uint32_t readers = 0;
      const int spans = spans_of(t.position[b.thread / S::kv_heads]);
      for (int s = 0; s < spans && s < blocks; ++s) readers |= 1u << ((first + s) % blocks);
      t.readers[b.thread] = readers;
    }
  }
}

template <class S>
FORETOKEN_DEVICE void fill_items(const block<S>& b) {
  using at = memory<S>;
  tables& t = b.table();
  const int pairs = b.rows * S::kv_heads;
  const int total = t.first_span[pairs];
  const int n = b.thread;
  if (n < spans_most && b.rank + n * blocks < total) {
    int pair = 0;
    while (t.first_span[pair + 1] <= b.rank + n * blocks) ++pair;
    const int number = b.rank + n * blocks - t.first_span[pair];
    t.item[n] = {pair, t.position[pair / S::kv_heads], number * span_positions,
                 t.first_slot[pair] + number};
  }
  if (n == spans_most) {
    t.spans = total > b.rank ? (total - b.rank + blocks - 1) / blocks : 0;
    std::uint32_t attention = 0, merge = 0;
    for (int p = 0; p < pairs; ++p) {
      if (t.readers[p] >> b.rank & 1) attention += (S::group + 2) * head_dim * 2;
      if (p % blocks == b.rank) {
        merge +=
            static_cast<std::uint32_t>((t.first_span[p + 1] - t.first_span[p]) * at::span_sent);
      }
    }
    t.bytes[to_attention] = attention;
    t.bytes[to_merge] = merge;
    t.bytes[to_output] = static_cast<std::uint32_t>(b.rows * S::heads * head_dim * 2);
    t.bytes[to_ffn] = t.bytes[to_next] = residual_bytes<S>(b.rows);
    t.bytes[to_down] = static_cast<std::uint32_t>(b.rows * S::ffn * 2);
  }
}

template <class S>
FORETOKEN_DEVICE void fill_pages(const block<S>& b) {
  const tables& t = b.table();
  auto* const pages = reinterpret_cast<int*>(b.base() + memory<S>::pages);
  for (int i = b.thread; i < t.spans * span_pages; i += threads) {
    const work_item& item = t.item[i / span_pages];
    const int page = item.first / page_positions + i % span_pages;
    pages[i] = 0;
    if (page * page_positions > item.position) continue;
    pages[i] = b.job.page_tables[wide(t.table[item.pair / S::kv_heads]) * wide(b.job.table_stride) +
                                 wide(page)] *
                   S::kv_heads +
               item.pair % S::kv_heads;
  }
}

template <class S>
FORETOKEN_DEVICE void arm(const block<S>& b, exchange which) {
  if (b.table().bytes[which] > 0) barrier_expect(b.arrival(which), b.table().bytes[which]);
}
// A compute thread waits for an exchange of `layer`; the first one arms the barrier again.
template <class S>
FORETOKEN_DEVICE void await(const block<S>& b, exchange which, int layer) {
  barrier_wait(b.arrival(which), layer & 1);
  if (b.thread == 0) arm(b, which);
  __syncwarp();
}

// Tables, barriers, the first layer's weights. Ends with a barrier of the cluster.
template <class S>
FORETOKEN_DEVICE void begin(block<S>& b) {
  if (b.lane == 0) {
    for (int i = 0; i < barriers_a_warp; ++i) barrier_init(b.weight_barrier(b.warp, i));
    if (b.warp == 0) {
      for (int i = 0; i < exchanges; ++i) barrier_init(b.arrival(static_cast<exchange>(i)));
    }
    fence_barrier_init();
    const duties mine = duties_of(b);
    if (mine.q) load_record(b, matrix::q, 0);
    if (mine.o) load_record(b, matrix::o, 0);
    if (mine.g) load_record(b, matrix::g, 0);
    if (mine.d) load_record(b, matrix::d, 0);
  }
  fill_rows(b);
  block_sync();
  fill_pairs(b);
  block_sync();
  fill_items(b);
  block_sync();
  if (b.thread == 0) {
    for (int i = 0; i < exchanges; ++i) arm(b, static_cast<exchange>(i));
  }
  fill_pages(b);
  for (int i = b.thread; i < b.rows * head_dim; i += threads) {
    b.floats(memory<S>::angles)[i] =
        b.job.model.angles[wide(b.table().position[i / head_dim]) * head_dim + wide(i % head_dim)];
  }
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) b.peer[i] = address_in(b.local(0), 4 * (b.lane % 4) + i);
  cluster_barrier();
}

// ---- row scales, and keys and values of the next layer into the L2 cache
// ---------------------------

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

// 1 / rms of rows first, first + step, ... from their tiles' sums of squares.
template <class S>
FORETOKEN_DEVICE void row_scales(const block<S>& b, int which, int first, int step) {
  using at = memory<S>;
  FORETOKEN_UNROLL_BY(1)
  for (int row = first; row < b.rows; row += step) {
    const float sum =
        lane_order_sum(b.floats(at::squares) + which * at::squares_floats + row * S::tiles_width,
                       S::tiles_width, b.lane);
    const float scale = inverse_root(sum, S::width, b.job.model.norm_epsilon);
    if (b.lane == 0) b.floats(at::scale)[which * S::rows + row] = scale;
    __syncwarp();
  }
}

// The four other warps while twelve do the FFN, and before the head.
template <class S>
FORETOKEN_DEVICE void serve_ffn(const block<S>& b, int layer) {
  prefetch_spans(b, layer + 1);
  barrier_wait(b.arrival(to_ffn), layer & 1);
  row_scales(b, 1, b.warp - tile_warps, other_warps);
  meet_without_waiting(meet_scale, threads);
}
template <class S>
FORETOKEN_DEVICE void serve_head(const block<S>& b) {
  barrier_wait(b.arrival(to_next), b.job.model.layer_count & 1);
  row_scales(b, 0, b.warp - tile_warps, other_warps);
  meet_without_waiting(meet_scale, threads);
}

// ---- a layer
// -----------------------------------------------------------------------------------------

template <class S, int Steps>
FORETOKEN_DEVICE void product(
    const block<S>& b, matrix m, int barrier_index, int layer, int input) {
  using at = memory<S>;
  const int segment = b.warp % parts;
  barrier_wait(b.weight_barrier(b.warp, barrier_index), layer & 1);
  float sum[1][S::columns][4] = {};
  unit_reader<Steps, S::columns> reader[1] = {
      {slot_of(b, m), b.base() + input + segment * Steps * 256 * S::columns, segment, b.lane}};
  unit_sums<Steps, S::columns, 1>(sum, reader);
  store_unit<S::columns>(b.floats(at::units) + b.warp * at::unit_floats, sum[0], b.rows);
}

template <class S>
FORETOKEN_DEVICE void attention_half(block<S>& b,
                                     const qkv_plan& plan,
                                     int layer,
                                     stopwatch& watch) {
  using at = memory<S>;
  lines l;
  if (b.table().spans > 0) {
    const work_item item = b.table().item[0];
    load_keys(b, l, item, 0, layer_pages(b, layer));
    load_values(b, l, item, 0, layer_pages(b, layer));
  }
  await(b, to_next, layer);
  watch.lap();
  if (duties_of(b).q) product<S, S::steps_width>(b, matrix::q, 0, layer, at::input);
  row_scales(b, 0, b.warp, warps);
  meet(meet_qkv, threads);
  b.forget();
  watch.lap();
  finish_qkv(b, plan, b.job.kv + (layer_pages(b, layer) - b.job.kv));
  __syncwarp();
  refill(b, matrix::q, layer, duties_of(b).q);
  watch.lap();
  if (b.table().bytes[to_attention] > 0) {
    await(b, to_attention, layer);
    b.forget();
    meet(meet_block, threads);  // results of chunks take the place of the sums of q, k, v
    watch.lap();
    attend(b, l, layer);
  }
  watch.lap();
  if (b.table().bytes[to_merge] > 0) {
    await(b, to_merge, layer);
    b.forget();
    watch.lap();
    merge_spans(b);
  }
  watch.lap();
}

template <class S>
FORETOKEN_DEVICE void ffn_half(block<S>& b, int layer, stopwatch& watch) {
  using at = memory<S>;
  f32x2 gain = gains_for(b, 2 * layer + 1);
  await(b, to_output, layer);
  b.forget();
  watch.lap();
  if (duties_of(b).o) product<S, S::steps_out>(b, matrix::o, 1, layer, at::output);
  meet(meet_tiles, tile_threads);
  b.forget();
  finish_residual(b, gain, 1, to_ffn);
  __syncwarp();
  refill(b, matrix::o, layer, duties_of(b).o);
  watch.lap();

  await(b, to_ffn, layer);
  b.forget();
  watch.lap();
  float total[S::columns][4] = {};
  if (duties_of(b).g) {
    barrier_wait(b.weight_barrier(b.warp, 2), layer & 1);
    tile_sums<S::steps_width, S::columns>(total, b.base() + at::input, [&](int s) {
      return static_cast<const char*>(slot_of(b, matrix::g, s));
    });
  }
  meet(meet_scale, threads);
  if (duties_of(b).g) finish_hidden(b, total);
  __syncwarp();
  refill(b, matrix::g, layer, duties_of(b).g);
  watch.lap();

  gain = gains_for(b, 2 * layer + 2);
  await(b, to_down, layer);
  b.forget();
  watch.lap();
  if (duties_of(b).d) product<S, S::steps_ffn>(b, matrix::d, 6, layer, at::hidden);
  meet(meet_tiles, tile_threads);
  b.forget();
  finish_residual(b, gain, 0, to_next);
  __syncwarp();
  refill(b, matrix::d, layer, duties_of(b).d);
  watch.lap();
}

template <class S>
FORETOKEN_DEVICE void run_layers(block<S>& b, stopwatch& watch) {
  const qkv_plan plan = plan_qkv(b);
  if (b.warp < tile_warps) send_embedding(b);
  for (int layer = 0; layer < b.job.model.layer_count; ++layer) {
    watch.on = b.job.cycles != nullptr && blockIdx.x == 0 && b.thread == 0 &&
               layer == b.job.model.layer_count / 3;
    watch.lap();
    b.forget();
    attention_half(b, plan, layer, watch);
    if (b.warp < tile_warps) {
      ffn_half(b, layer, watch);
    } else {
      serve_ffn(b, layer);
    }
  }
  watch.on = false;
  best_of_rows<S> best;
  FORETOKEN_UNROLL
  for (int c = 0; c < S::columns; ++c) {
    best.logit[c][0] = best.logit[c][1] = -INFINITY;
    best.id[c][0] = best.id[c][1] = -1;
  }
  if (b.warp < tile_warps) {
    barrier_wait(b.arrival(to_next), b.job.model.layer_count & 1);
    meet(meet_scale, threads);
    head_tiles(b, best, duties_of(b).g ? b.job.model.layer_count : 0);
  } else {
    serve_head(b);
  }
  send_best(b, best);
}

template <class S>
__global__ void __launch_bounds__(threads, 1)
    step_kernel(const __grid_constant__ step_arguments job) {
  const int number = static_cast<int>(blockIdx.x) / blocks;
  block<S> b{job,
             job.lane[number],
             cluster_rank(),
             thread_index() % 32,
             thread_index() / 32,
             thread_index(),
             job.lane[number].rows,
             {}};
  begin(b);
  stopwatch watch{job.cycles};
  run_layers(b, watch);
  if (b.over) {
    asm volatile("red.relaxed.cluster.shared::cluster.add.u32 [%0],1;" ::"r"(
                     address_in(shared_address(&b.table().clamped), 0))
                 : "memory");
  }
  cluster_barrier();
  publish(b);
}

// ---- launch
// ------------------------------------------------------------------------------------------

using kernel = void (*)(step_arguments);

template <class S>
constexpr limits limits_for() {
  return {S::layer_bytes, S::head_bytes, S::rows, memory<S>::span_slots, memory<S>::end};
}
kernel kernel_of(model_shape shape) {
  return shape == model_shape::tiny ? step_kernel<tiny_rows8> : step_kernel<smollm2_135m_rows8>;
}

status checked(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return error{errc::device, std::string(what) + ": " + cudaGetErrorString(code)};
}

struct launch_plan {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};
};
void plan(launch_plan& to, int lanes, int shared_bytes, cudaStream_t stream) {
  to.attribute.id = cudaLaunchAttributeClusterDimension;
  to.attribute.val.clusterDim = {blocks, 1, 1};
  to.config.gridDim = dim3(static_cast<unsigned>(blocks * lanes));
  to.config.blockDim = dim3(threads);
  to.config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  to.config.stream = stream;
  to.config.attrs = &to.attribute;
  to.config.numAttrs = 1;
}

}  // namespace

limits limits_of(model_shape shape) {
  return shape == model_shape::tiny ? limits_for<tiny_rows8>() : limits_for<smollm2_135m_rows8>();
}

status prepare(model_shape shape) {
  const auto* const function = reinterpret_cast<const void*>(kernel_of(shape));
  FORETOKEN_TRY(checked(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             limits_of(shape).shared_bytes),
                        "shared memory of the cluster step"));
  return checked(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
                 "clusters of 16");
}

result<int> lanes_of_device(model_shape shape) {
  launch_plan to;
  plan(to, 1, limits_of(shape).shared_bytes, nullptr);
  int count = 0;
  FORETOKEN_TRY(checked(cudaOccupancyMaxActiveClusters(
                            &count, reinterpret_cast<const void*>(kernel_of(shape)), &to.config),
                        "clusters at once"));
  return count;
}

status launch(model_shape shape, const step_arguments& step, cudaStream_t stream) {
  const limits most = limits_of(shape);
  if (step.lanes < 1 || step.lanes > lanes_most) return invalid("lanes", "1 to 7 of them");
  const int kv_heads =
      shape == model_shape::tiny ? tiny_rows8::kv_heads : smollm2_135m_rows8::kv_heads;
  for (int i = 0; i < step.lanes; ++i) {
    const lane_rows& lane = step.lane[i];
    if (lane.rows < 1 || lane.rows > most.rows_max)
      return invalid("rows", "more than a lane takes");
    int merged[blocks] = {}, spans = 0;
    for (int p = 0; p < lane.rows * kv_heads; ++p) {
      const int of_pair = lane.position[p / kv_heads] / span_positions + 1;
      merged[p % blocks] += of_pair;
      spans += of_pair;
      if (merged[p % blocks] > most.spans_max || spans > spans_most * blocks) {
        return unsupported("position", "contexts too long for one cluster");
      }
    }
  }
  launch_plan to;
  plan(to, step.lanes, most.shared_bytes, stream);
  step_arguments copy = step;
  void* arguments[] = {&copy};
  return checked(
      cudaLaunchKernelExC(&to.config, reinterpret_cast<const void*>(kernel_of(shape)), arguments),
      "launch of the cluster step");
}

}  // namespace foretoken::gpu::cluster
