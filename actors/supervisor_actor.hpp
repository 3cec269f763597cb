// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <atomic>

#include "actors/protocol.hpp"

namespace foretoken::actors {

struct supervisor_parts {
  std::shared_ptr<const loaded_model> model;
  std::shared_ptr<const options> chosen;
  std::shared_ptr<counters> metrics;
  batcher_actor batcher;
  tokenizer_actor tokenizer;
  cache_manager_actor cache_manager;
  metrics_actor metrics_keeper;
  std::shared_ptr<std::atomic<bool>> broken;  // set when an actor that must not die has died
  bool detached_executor = true;              // false only under a test's coordinator
};

// The root of the tree: starts an executor a device, restarts it with back-off when it dies, tells
// the batcher of both, and ends everybody in order when it is told to exit.
supervisor_actor spawn_supervisor(caf::actor_system& system, supervisor_parts parts);

}  // namespace foretoken::actors
