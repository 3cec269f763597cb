// SPDX-License-Identifier: Apache-2.0
#include "actors/cache_manager_actor.hpp"

#include <algorithm>

namespace foretoken::actors {
namespace {

// Pages kept free ahead of demand: 1/32 of the pool, so that a growing sequence rarely has to
// reclaim.
constexpr int reserve_divisor = 32;

class cache_manager_state : public cache_manager_actor::base {
 public:
  cache_manager_state(caf::actor_config& config,
                      std::shared_ptr<cache::pools> pages,
                      std::shared_ptr<counters> metrics)
      : cache_manager_actor::base(config), pages_(std::move(pages)), metrics_(std::move(metrics)) {}

  const char* name() const override { return "cache_manager"; }

  behavior_type make_behavior() override {
    return {[this](const pages_released&) {
      metrics_->mailbox_cache_manager.add(-1);
      for (int i = 0; i < pages_->devices(); ++i) refill_reserve(pages_->of(i));
    }};
  }

 private:
  static void refill_reserve(cache::kv_cache& pages) {
    const auto counts = pages.counts();
    const int lacking = pages.pages() / reserve_divisor - counts.free;
    if (lacking > 0 && counts.cached > 0) pages.trim(std::max(0, counts.cached - lacking));
  }

  std::shared_ptr<cache::pools> pages_;
  std::shared_ptr<counters> metrics_;
};

}  // namespace

cache_manager_actor spawn_cache_manager(caf::actor_system& system,
                                        std::shared_ptr<cache::pools> pages,
                                        std::shared_ptr<counters> metrics) {
  return system.spawn<cache_manager_state>(std::move(pages), std::move(metrics));
}

}  // namespace foretoken::actors
