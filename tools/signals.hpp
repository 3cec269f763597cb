// SPDX-License-Identifier: Apache-2.0
#pragma once
// SIGTERM and SIGINT as something a thread can wait for. Make one before any other thread starts:
// their mask is inherited.

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace foretoken::tools {

// The first signal before serving() ends the process at once with status 0: nothing is lost. Later
// the first one makes wait() true, and the second ends the process at once with 128 + signal.
class signals {
 public:
  signals();
  void serving();
  bool wait(std::chrono::milliseconds longest);  // true once a signal came

 private:
  void watch();
  std::mutex mutex_;
  std::condition_variable changed_;
  bool serving_ = false, asked_ = false;
};

}  // namespace foretoken::tools
