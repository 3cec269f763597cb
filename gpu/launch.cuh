// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a kernel is started: on the device's stream, or block by block in the emulator.

#include "gpu/device.cuh"
#include "gpu/kernels.hpp"
#if defined(__CUDACC__)
#include "gpu/device_status.cuh"
#endif

namespace foretoken::gpu {

constexpr int blocks_of(int n, int size) {
  return (n + size - 1) / size;
}

struct launch_grid {
  int x = 1, y = 1, z = 1;
  int cluster = 1;  // blocks beside each other in x that share their memories; no emulation
};

#if defined(__CUDACC__)

// `Argument` is the kernel's own parameter type: no conversions.
template <class... Parameters>
status launch(const launch_context& on,
              void (*kernel)(Parameters...),
              launch_grid grid,
              int threads,
              int shared_bytes,
              const Parameters&... given) {
  if (shared_bytes > on.shared_bytes_max) {
    return unsupported("device", "too little shared memory for a kernel");
  }
  if (shared_bytes > 48 << 10) {
    FORETOKEN_TRY(device_status(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "shared memory of a kernel"));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                        static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = on.stream;
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (on.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
  }
  config.attrs = attributes;
  config.numAttrs = count;
  return device_status(cudaLaunchKernelEx(&config, kernel, given...), "kernel launch");
}

#else

template <class... Parameters>
status launch(const launch_context&,
              void (*kernel)(Parameters...),
              launch_grid grid,
              int threads,
              int shared_bytes,
              const Parameters&... given) {
  const auto size = [](int n) { return static_cast<unsigned>(n); };
  std::string failure =
      spmd::run({size(grid.x), size(grid.y), size(grid.z)}, {size(threads)},
                static_cast<std::size_t>(shared_bytes), [&] { kernel(given...); });
  if (failure.empty()) return {};
  return error{errc::internal, std::move(failure), {}};
}

#endif

}  // namespace foretoken::gpu
