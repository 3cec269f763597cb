// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "actors/protocol.hpp"

namespace foretoken::actors {

// Reads and prepares a model on a thread of its own and answers with the shared result.
model_loader_actor spawn_model_loader(caf::actor_system& system,
                                      std::shared_ptr<counters> metrics,
                                      load_progress progress);

}  // namespace foretoken::actors
