// SPDX-License-Identifier: Apache-2.0
#include "tools/stop_limit.hpp"

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/log.hpp"

namespace foretoken::tools {

stop_limit::stop_limit(std::chrono::milliseconds longest,
                       std::function<int()> open_requests,
                       exit_code code)
    : watch_([longest, open_requests = std::move(open_requests), code](
                 const std::stop_token& stopped) {
        std::mutex mutex;
        std::unique_lock lock(mutex);
        std::condition_variable_any().wait_for(lock, stopped, longest, [] { return false; });
        if (stopped.stop_requested()) return;
        const int open = open_requests();
        log::warn("serve", "a step or a device holds the stop: ending, {} requests are open", open);
        std::_Exit(open > 0 && code == exit_success ? exit_failure : code);
      }) {}

}  // namespace foretoken::tools
