// SPDX-License-Identifier: Apache-2.0
#include "actors/handles.hpp"

namespace foretoken::actors {
namespace {

class actor_sink final : public event_sink {
 public:
  explicit actor_sink(caf::actor to) : to_(std::move(to)) {}
  void deliver(std::vector<event> events) noexcept override {
    caf::anon_send(to_,
                   stream_events{std::make_shared<const std::vector<event>>(std::move(events))});
  }

 private:
  caf::actor to_;
};

}  // namespace

void tune(caf::actor_system_config& config, int worker_threads) {
  // Work stealing leaves a message waiting for milliseconds when its worker is busy; sharing does
  // not.
  config.set("scheduler.policy", caf::atom("sharing"));
  config.set("scheduler.max-threads", static_cast<std::size_t>(worker_threads));
  config.set("scheduler.max-throughput", std::size_t{64});
}

std::shared_ptr<event_sink> subscribe(caf::actor to) {
  return std::make_shared<actor_sink>(std::move(to));
}

}  // namespace foretoken::actors
