// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "actors/protocol.hpp"

namespace foretoken::actors {

// Keeps pages free ahead of demand. Look-ups and leases go to the books directly (one short lock,
// no message); what can wait comes here: reclaiming old pages so that a step finds free ones.
cache_manager_actor spawn_cache_manager(caf::actor_system& system,
                                        std::shared_ptr<cache::pools> pages,
                                        std::shared_ptr<counters> metrics);

}  // namespace foretoken::actors
