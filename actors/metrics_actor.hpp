// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <mutex>

#include "actors/metrics_page.hpp"
#include "actors/protocol.hpp"

namespace foretoken::actors {

// The page and what it is made of. The actor refreshes the process figures every second; a scrape
// reads the atomics themselves, at most every 100 ms (a storm of scrapes must not cost steps).
class metrics_board {
 public:
  metrics_board(std::shared_ptr<counters> values,
                std::shared_ptr<cache::pools> pages,
                what_runs here);
  std::string page();
  void sample();

 private:
  std::shared_ptr<counters> values_;
  std::shared_ptr<cache::pools> pages_;
  what_runs here_;
  std::mutex mutex_;
  process_sample process_;
  std::string page_;
  std::chrono::steady_clock::time_point rendered_{};
};

metrics_actor spawn_metrics(caf::actor_system& system, std::shared_ptr<metrics_board> board);

}  // namespace foretoken::actors
