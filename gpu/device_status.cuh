// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the driver said to a launch. A full memory, met where a kernel is loaded at its first
// launch, leaves the device usable; anything else does not.

#include <cuda_runtime.h>

#include <string>

#include "base/result.hpp"

namespace foretoken::gpu {

inline status device_status(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return error{code == cudaErrorMemoryAllocation ? errc::exhausted : errc::device,
               std::string(what) + ": " + cudaGetErrorString(code)};
}

}  // namespace foretoken::gpu
