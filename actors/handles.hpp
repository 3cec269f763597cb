// SPDX-License-Identifier: Apache-2.0
#pragma once
// For services that live in the same actor system: start the engine inside it, hold its actors'
// handles, and receive a stream's events as messages. Optional; engine.hpp alone needs no CAF.

#include <caf/all.hpp>

#include "actors/engine.hpp"
#include "actors/protocol.hpp"

namespace foretoken::actors {

// One step's events of the requests that an actor subscribed to.
struct stream_events {
  std::shared_ptr<const std::vector<event>> events;
};
using subscriber_actor = caf::typed_actor<caf::reacts_to<stream_events>>;

// `system` must outlive the engine; its scheduler should use the sharing policy (see tune()).
result<std::unique_ptr<engine>> start(options chosen,
                                      caf::actor_system& system,
                                      load_progress progress = {});

// The same over a model that is prepared already: a device of one's own, or a test's. `system` may
// be null: the engine then makes its own.
result<std::unique_ptr<engine>> start(options chosen,
                                      std::shared_ptr<const loaded_model> prepared,
                                      caf::actor_system* system);

// The scheduler settings the engine wants: sharing policy, few workers.
void tune(caf::actor_system_config& config, int worker_threads);

// A sink for submit() that sends the events to `to` as stream_events.
std::shared_ptr<event_sink> subscribe(caf::actor to);

// Handles of a running engine's actors; empty after stop(). Drop them before the system ends.
struct engine_handles {
  supervisor_actor supervisor;
  batcher_actor batcher;
  tokenizer_actor tokenizer;
  cache_manager_actor cache_manager;
};
engine_handles handles_of(engine& running);

}  // namespace foretoken::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::stream_events)
