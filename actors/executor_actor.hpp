// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "actors/protocol.hpp"

namespace foretoken::actors {

struct executor_parts {
  int device = 0;
  std::uint64_t epoch = 0;
  device_factory make_device;
  batcher_actor batcher;
  std::shared_ptr<counters> metrics;
  std::chrono::milliseconds stay_awake{0};  // REQUIRES a thread of its own, if any
};

// One per device, on a thread of its own: makes the device when told, then takes micro-batches,
// runs the forward pass, reports; several at once when the device says so. Dies when its device
// cannot be made or fails; the supervisor then starts a successor. REQUIRES to be called from an
// actor. `detached` is false only under a test's coordinator.
executor_actor spawn_executor(caf::local_actor& parent, executor_parts parts, bool detached);

}  // namespace foretoken::actors
