// SPDX-License-Identifier: Apache-2.0
#include <condition_variable>
#include <mutex>
#include <thread>

#include "actors/engine.hpp"

namespace foretoken::actors {

struct delivery_thread::state {
  explicit state(callback run) : on_event(std::move(run)) {}

  void loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      const auto batch = std::exchange(queue, {});
      lock.unlock();
      for (const auto& one : batch) on_event(one);
      lock.lock();
    }
  }

  callback on_event;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<event> queue;
  bool stopping = false;
  std::thread thread;
};

delivery_thread::delivery_thread(callback on_event)
    : state_(std::make_unique<state>(std::move(on_event))) {
  state_->thread = std::thread([run = state_.get()] { run->loop(); });
}

delivery_thread::~delivery_thread() {
  stop();
}

void delivery_thread::deliver(std::vector<event> events) noexcept {
  const std::lock_guard lock(state_->mutex);
  if (state_->stopping) return;
  for (auto& one : events) state_->queue.push_back(std::move(one));
  state_->wake.notify_one();
}

void delivery_thread::stop() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
    state_->wake.notify_one();
  }
  if (state_->thread.joinable()) state_->thread.join();
}

}  // namespace foretoken::actors
