// SPDX-License-Identifier: Apache-2.0
#include "actors/metrics_actor.hpp"

namespace foretoken::actors {
namespace {

using namespace std::chrono_literals;

class metrics_state : public metrics_actor::base {
 public:
  metrics_state(caf::actor_config& config, std::shared_ptr<metrics_board> board)
      : metrics_actor::base(config), board_(std::move(board)) {}

  const char* name() const override { return "metrics"; }

  behavior_type make_behavior() override {
    delayed_send(this, 1s, sample_metrics{});
    return {[this](const sample_metrics&) {
      board_->sample();
      delayed_send(this, 1s, sample_metrics{});
    }};
  }

 private:
  std::shared_ptr<metrics_board> board_;
};

}  // namespace

metrics_board::metrics_board(std::shared_ptr<counters> values,
                             std::shared_ptr<cache::pools> pages,
                             what_runs here)
    : values_(std::move(values)), pages_(std::move(pages)), here_(std::move(here)) {
  sample();
}

void metrics_board::sample() {
  const auto fresh = sample_process();
  const std::lock_guard lock(mutex_);
  process_ = fresh;
}

std::string metrics_board::page() {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (!page_.empty() && now - rendered_ < 100ms) return page_;
  const auto counts = pages_->counts();
  values_->kv_pages_free.set(counts.free);
  values_->kv_pages_cached.set(counts.cached);
  values_->kv_pages_used.set(counts.used);
  page_ = render_metrics(*values_, process_, here_);
  rendered_ = now;
  return page_;
}

metrics_actor spawn_metrics(caf::actor_system& system, std::shared_ptr<metrics_board> board) {
  return system.spawn<metrics_state>(std::move(board));
}

}  // namespace foretoken::actors
