// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "actors/protocol.hpp"

namespace foretoken::actors {

struct tokenizer_parts {
  std::shared_ptr<const loaded_model> model;
  std::shared_ptr<counters> metrics;
  batcher_actor batcher;
};

// Turns long texts into tokens on a thread of its own, so that neither the network loop nor the
// batcher waits for them. Short texts are encoded where they arrive (engine::submit).
tokenizer_actor spawn_tokenizer(caf::actor_system& system, tokenizer_parts parts);

}  // namespace foretoken::actors
