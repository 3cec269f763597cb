// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>
#include <memory>

#include "actors/protocol.hpp"

namespace foretoken::actors {

// What the batcher shares with the rest; all of it outlives the actor system's actors.
struct batcher_parts {
  std::shared_ptr<const loaded_model> model;
  std::shared_ptr<cache::pools> pages;
  std::shared_ptr<counters> metrics;
  std::shared_ptr<const options> chosen;
  cache_manager_actor cache_manager;
  std::shared_ptr<std::atomic<bool>> hangs;  // set while a step takes longer than step_time_max
};

// The only place where requests wait. Event-based, with a thread of its own when it stays awake;
// wraps request_book over device_plans; keeps the executors busy within their credits and sends
// each step's events straight to their sinks.
batcher_actor spawn_batcher(caf::actor_system& system, batcher_parts parts);

}  // namespace foretoken::actors
