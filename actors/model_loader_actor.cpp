// SPDX-License-Identifier: Apache-2.0
#include "actors/model_loader_actor.hpp"

#include "actors/devices.hpp"

namespace foretoken::actors {
namespace {

class model_loader_state : public model_loader_actor::base {
 public:
  model_loader_state(caf::actor_config& config,
                     std::shared_ptr<counters> metrics,
                     load_progress progress)
      : model_loader_actor::base(config),
        metrics_(std::move(metrics)),
        progress_(std::move(progress)) {}

  const char* name() const override { return "model_loader"; }

  behavior_type make_behavior() override {
    return {[this](const load_model& message) {
      auto loaded = prepare_model(*message.chosen, metrics_, progress_);
      return loaded ? model_loaded{std::move(loaded).value(), {}}
                    : model_loaded{nullptr, loaded.error()};
    }};
  }

 private:
  std::shared_ptr<counters> metrics_;
  load_progress progress_;
};

}  // namespace

model_loader_actor spawn_model_loader(caf::actor_system& system,
                                      std::shared_ptr<counters> metrics,
                                      load_progress progress) {
  return system.spawn<model_loader_state, caf::detached>(std::move(metrics), std::move(progress));
}

}  // namespace foretoken::actors
