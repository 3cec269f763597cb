// SPDX-License-Identifier: Apache-2.0
// A warp computes 16 outputs of 8 rows, straight from memory.
#include "bench/gpu_chain.hpp"

#include "gpu/device.cuh"

namespace foretoken {
namespace {

__global__ void chain(const chain_arguments job) {
  const int g = static_cast<int>(threadIdx.x) / 4, q = static_cast<int>(threadIdx.x) % 4;
  const int n = static_cast<int>(blockIdx.x) * 16, m = static_cast<int>(blockIdx.y) * 8;
  const auto pair = [&](const std::uint16_t* from, int row, int column) {
    return *reinterpret_cast<const std::uint32_t*>(from + gpu::wide(row) * gpu::wide(job.inputs) +
                                                   column);
  };
  float sum[4] = {};
  for (int i = 2 * q; i < job.used; i += 16) {
    const std::uint32_t a[4] = {pair(job.w, n + g, i), pair(job.w, n + g + 8, i),
                                pair(job.w, n + g, i + 8), pair(job.w, n + g + 8, i + 8)};
    const std::uint32_t b[2] = {pair(job.x, m + g, i), pair(job.x, m + g, i + 8)};
    gpu::mma(sum, a, b);
  }
  float* const to = job.y + gpu::wide(m + 2 * q) * gpu::wide(job.outputs) + n + g;
  to[0] = sum[0];
  to[job.outputs] = sum[1];
  to[8] = sum[2];
  to[job.outputs + 8] = sum[3];
}

}  // namespace

cudaError_t launch_chain(const chain_arguments& given, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(given.outputs / 16), static_cast<unsigned>(given.rows / 8));
  chain<<<grid, 32, 0, stream>>>(given);
  return cudaGetLastError();
}

}  // namespace foretoken
