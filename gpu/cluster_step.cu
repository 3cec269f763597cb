// SPDX-License-Identifier: Apache-2.0
// A whole decode step of a small Llama-like model in one launch; a cluster of 16 blocks a lane.
//
//   x = embedding[token]
//   each layer: q, k, v = W f16(x gain) / rms, rotated, k and v appended; a = attention(q);
//               x += W_o a; h = silu(gate) * up of W f16(x gain) / rms; x += W_down h
//   token = argmax W_head f16(x gain) / rms, or f16(x gain) to the general path's head
//
// Rows: the 1..8 of a lane are the columns of m16n8k16, two products do for 9 or 10; tiles of 16
// weight rows are spread over the blocks. Every block holds all inputs of its next product, as B
// fragments; whoever finishes 8 values of a row stores them into the 16 blocks (st.async), whose
// barriers count bytes: no cluster barrier inside the step. Weights arrive by bulk copies, a slot
// for each warp: those of q, k, v, and of the output projection unless values need its slots, a
// layer ahead, the others behind attention. The four warps without a tile of the FFN start them and
// arm the barriers.
//
// Why no buffer is overwritten early, and no barrier completes with another layer's bytes. Six
// exchanges a layer: q k v -> attention -> merge -> output projection -> FFN -> down -> next layer.
// To the output projection, the FFN, down and next every block sends, or waits for what needs every
// block: a block that has one of these four complete knows that all blocks have done what comes
// before it. Each of the two others lies between two of them. So a value of layer l + 1 can only be
// sent when all blocks have used that buffer's value of layer l. Inside a block barriers of threads
// stand between what reads a place and what stores there next, or starts a copy to it: one behind
// q, k, v, one before attention and in each turn of it, one of twelve warps in the output
// projection and in down, and one in the head; and hand-overs: to the four other warps, which start
// copies, when all have read their weights of q, k, v and values, and two between these four and
// the twelve in gate-up. Sums of products that follow each other have places of their own. What
// shares memory within a layer: results of chunks stand in inputs and sums of q, k, v, sums of the
// output projection in queries, hidden values in these and in what attention gave, which to_ffn
// says is multiplied everywhere, sums of down in spans, and behind all layers the best of rows
// there; values of attention stand in slots from the end of gate-up, or down, to that of attention,
// behind which these slots are filled anew.
//
// SmolLM2-135M, W4: 76 MB of layers and 18 MB of head a step and cluster, most of them out of the
// L2 cache when lanes run in step; 23 KB of keys and values a position and row. Products: 216 MFLOP
// a row. Issue slots bound it, about 16 a k16 step of a tile: 243 steps a layer and scheduler.

#include <string>

#include "gpu/cluster_layer.cuh"
#include "gpu/cluster_step.hpp"
#include "gpu/device_status.cuh"

namespace foretoken::gpu::cluster {
namespace {

template <class S, bool Timed>
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
  stopwatch<Timed> watch{job.cycles};
  run_layers(b, watch);
  if (job.normed != nullptr) {
    barrier_wait(b.arrival(to_next), job.model.layer_count & 1);
    store_normed(b);
  } else {
    run_head(b);
  }
  cluster_barrier();
  publish(b);
}

// ---- launch
// ------------------------------------------------------------------------------------------

using kernel = void (*)(step_arguments);

template <class S>
constexpr limits limits_for() {
  static_assert(span_positions == attention_span);  // lane_fits()
  return {S::rows, S::kv_heads, memory<S>::spans_read, memory<S>::span_slots, memory<S>::end};
}
// Of lanes of up to `rows` rows. Eight are the columns of one product; a kernel that takes more has
// less room and multiplies twice.
kernel kernel_of(model_shape shape, int rows, bool timed = false) {
  const bool many = rows > lane_rows_few;
  if (shape == model_shape::tiny) {
    return many ? step_kernel<tiny_rows10, false> : step_kernel<tiny_rows8, false>;
  }
  if (many) {
    return timed ? step_kernel<smollm2_135m_rows10, true> : step_kernel<smollm2_135m_rows10, false>;
  }
  return timed ? step_kernel<smollm2_135m_rows8, true> : step_kernel<smollm2_135m_rows8, false>;
}

struct launch_plan {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};
};
void plan(launch_plan& to, int lanes, int shared_bytes, bool dependent, cudaStream_t stream) {
  to.attributes[0].id = cudaLaunchAttributeClusterDimension;
  to.attributes[0].val.clusterDim = {blocks, 1, 1};
  to.attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  to.attributes[1].val.programmaticStreamSerializationAllowed = 1;
  to.config.gridDim = dim3(static_cast<unsigned>(blocks * lanes));
  to.config.blockDim = dim3(threads);
  to.config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  to.config.stream = stream;
  to.config.attrs = to.attributes;
  to.config.numAttrs = dependent ? 2 : 1;
}

}  // namespace

limits limits_of(model_shape shape, int rows) {
  const bool many = rows > lane_rows_few;
  if (shape == model_shape::tiny) {
    return many ? limits_for<tiny_rows10>() : limits_for<tiny_rows8>();
  }
  return many ? limits_for<smollm2_135m_rows10>() : limits_for<smollm2_135m_rows8>();
}

status prepare(model_shape shape) {
  for (const int rows : {lane_rows_few, lane_rows_most}) {
    for (const bool timed : {false, true}) {
      const auto* const function = reinterpret_cast<const void*>(kernel_of(shape, rows, timed));
      FORETOKEN_TRY(
          device_status(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             limits_of(shape, rows).shared_bytes),
                        "shared memory of the cluster step"));
      FORETOKEN_TRY(device_status(
          cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "clusters of 16"));
    }
  }
  return {};
}

result<int> lanes_of_device(model_shape shape) {
  launch_plan to;
  plan(to, 1, limits_of(shape, lane_rows_most).shared_bytes, false, nullptr);
  int count = 0;
  FORETOKEN_TRY(device_status(
      cudaOccupancyMaxActiveClusters(
          &count, reinterpret_cast<const void*>(kernel_of(shape, lane_rows_most)), &to.config),
      "clusters at once"));
  return count;
}

bool supported(int ordinal) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int found = 0;
    return cudaDeviceGetAttribute(&found, which, ordinal) == cudaSuccess ? found : 0;
  };
  return attribute(cudaDevAttrComputeCapabilityMajor) == 9 &&
         attribute(cudaDevAttrClusterLaunch) != 0 &&
         attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= shared_most;
}

status launch(model_shape shape, const step_arguments& step, cudaStream_t stream) {
  if (step.lanes < 1 || step.lanes > lanes_at_once) return invalid("lanes", "1 to 7 of them");
  const std::span lanes(step.lane, static_cast<std::size_t>(step.lanes));
  if (!lanes_fit(shape, lanes)) {
    return unsupported("rows", "more, or longer ones, than one cluster takes");
  }
  const int rows = fullest(lanes);
  launch_plan to;
  plan(to, step.lanes, limits_of(shape, rows).shared_bytes, step.dependent, stream);
  step_arguments copy = step;
  void* arguments[] = {&copy};
  const kernel chosen = kernel_of(shape, rows, step.cycles != nullptr);
  return device_status(
      cudaLaunchKernelExC(&to.config, reinterpret_cast<const void*>(chosen), arguments),
      "launch of the cluster step");
}

}  // namespace foretoken::gpu::cluster
