// SPDX-License-Identifier: Apache-2.0
#pragma once
// Blocks of one launch that leave parts in memory for the last of them.

#include "gpu/device.cuh"

namespace foretoken::gpu {

// True in every thread of the block that is the last of `count` to come here: it may read (past the
// first-level cache: load_shared_device) what the others wrote before. Leaves the counter at zero,
// as it found it; uses the first word of shared memory.
FORETOKEN_DEVICE bool last_to_arrive(std::uint32_t* counter, int count) {
  auto* const flag = reinterpret_cast<std::uint32_t*>(shared_memory());
  block_sync();
  if (thread_index() == 0) {
    device_fence();
    flag[0] = atomic_add(counter, 1) + 1 == static_cast<std::uint32_t>(count) ? 1u : 0u;
    if (flag[0] != 0) *counter = 0;
    device_fence();
  }
  block_sync();
  return flag[0] != 0;
}

}  // namespace foretoken::gpu
