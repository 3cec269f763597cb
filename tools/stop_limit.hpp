// SPDX-License-Identifier: Apache-2.0
#pragma once
// A stop that takes too long ends the process all the same.

#include <chrono>
#include <functional>
#include <thread>

#include "tools/exit_code.hpp"

namespace foretoken::tools {

// While it lives, the process has `longest` to end by itself; then it is ended: a long step, one
// that hangs, or a device in the making would hold it. With `code`, or with exit_failure
// instead of exit_success if requests are still open: by then every one was to be cancelled.
// open_requests is called on a thread of its own.
class stop_limit {
 public:
  stop_limit(std::chrono::milliseconds longest, std::function<int()> open_requests, exit_code code);

 private:
  std::jthread watch_;
};

}  // namespace foretoken::tools
