// SPDX-License-Identifier: Apache-2.0
#pragma once
// Blocks of one launch that leave parts in memory for the last of them.

#include "gpu/device.cuh"
#include "gpu/kernels.hpp"

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

// One block a row: the last of all rows to be there, in the host's memory, tells the host where one
// waits.
FORETOKEN_DEVICE void tell_host(const announce_arguments& end,
                                std::uint32_t number,
                                std::uint32_t* rows_arrived,
                                int rows) {
  if (end.flag == nullptr) return;
  if (rows > 1 && !last_to_arrive(rows_arrived, rows)) return;
  if (thread_index() == 0) store_release_host(end.flag, number);
}
FORETOKEN_DEVICE std::uint32_t number_of(const announce_arguments& end) {
  return end.flag != nullptr ? *end.number : 0;
}

}  // namespace foretoken::gpu
