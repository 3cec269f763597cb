// SPDX-License-Identifier: Apache-2.0
// Which devices of this process are lost, and which one a thread works with.
#include <algorithm>
#include <array>
#include <atomic>

#include "gpu/runtime.hpp"

namespace foretoken::gpu::runtime {
namespace {

std::array<std::atomic<bool>, devices_max> lost_devices{};
thread_local int own = 0;

std::size_t index_of(int ordinal) noexcept {
  return static_cast<std::size_t>(std::clamp(ordinal, 0, devices_max - 1));
}

}  // namespace

int device_of_thread() noexcept {
  return own;
}
void set_device_of_thread(int ordinal) noexcept {
  own = ordinal;
}

bool lost(int ordinal) noexcept {
  return lost_devices[index_of(ordinal)].load(std::memory_order_relaxed);
}
bool lost() noexcept {
  return lost(own);
}
error lose(std::string why) {
  lost_devices[index_of(own)].store(true);
  return {errc::device, std::move(why)};
}
void find_again() {
  for (auto& each : lost_devices) each.store(false);
}

}  // namespace foretoken::gpu::runtime
