// SPDX-License-Identifier: Apache-2.0
#include "tools/signals.hpp"

#include <csignal>
#include <cstdlib>
#include <thread>

namespace foretoken::tools {
namespace {

sigset_t watched() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

signals::signals() {
  const sigset_t set = watched();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  // Detached: it waits in sigwait until the process ends. The object lives in main's frame as long.
  std::thread([this] { watch(); }).detach();
}

void signals::serving() {
  const std::lock_guard lock(mutex_);
  serving_ = true;
}

bool signals::wait(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, longest, [this] { return asked_; });
}

void signals::watch() {
  const sigset_t set = watched();
  while (true) {
    int taken = 0;
    if (sigwait(&set, &taken) != 0) continue;
    const std::lock_guard lock(mutex_);
    if (!serving_) std::_Exit(0);
    if (asked_) std::_Exit(128 + taken);
    asked_ = true;
    changed_.notify_all();
  }
}

}  // namespace foretoken::tools
