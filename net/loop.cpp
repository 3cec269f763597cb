// SPDX-License-Identifier: Apache-2.0
#include "net/loop.hpp"

#include <algorithm>
#include <iterator>

#include "net/connection.hpp"

namespace foretoken::net {

void port::deliver(std::vector<actors::event> events) noexcept {
  if (events.empty()) return;
  const std::lock_guard hold(guard_);
  if (wake_ == nullptr) return;
  const bool was_empty = queue_.empty();
  if (was_empty) {
    queue_ = std::move(events);
  } else {
    queue_.insert(queue_.end(), std::make_move_iterator(events.begin()),
                  std::make_move_iterator(events.end()));
  }
  if (was_empty)
    uv_async_send(wake_);  // fails only on a handle that is closing: close() came first
}

void port::wake() noexcept {
  const std::lock_guard hold(guard_);
  if (wake_ != nullptr) uv_async_send(wake_);
}

void port::close() noexcept {
  const std::lock_guard hold(guard_);
  wake_ = nullptr;
  queue_.clear();
}

std::vector<actors::event> port::take() noexcept {
  const std::lock_guard hold(guard_);
  return std::exchange(queue_, {});
}

result<request_id> loop_core::submit(actors::generate_request request, event_handler& handler) {
  auto id = engine.submit(std::move(request), events);
  if (id) handlers_[*id] = &handler;  // its events wait in the port until this turn ends
  return id;
}

result<request_id> loop_core::tokenize(std::string text,
                                       tokenizer::encode_options how,
                                       event_handler& handler) {
  auto id = engine.tokenize(std::move(text), how, events);
  if (id) handlers_[*id] = &handler;
  return id;
}

void loop_core::cancel(request_id id) {
  engine.cancel(id);
}

void loop_core::abandon(request_id id) {
  if (handlers_.erase(id) != 0) engine.cancel(id);
}

void loop_core::touch(connection& changed) {
  if (!changed.touched) touched_.push_back(&changed);
  changed.touched = true;
}

void loop_core::settle() {
  // Settling one may touch another turn's work, so the list is walked by index.
  for (std::size_t i = 0; i < touched_.size(); ++i) {
    auto* changed = touched_[i];
    if (changed == nullptr) continue;
    changed->touched = false;
    changed->settle();
  }
  touched_.clear();
}

void loop_core::dispatch() {
  auto batch = events->take();
  for (auto& what : batch) {
    const auto found = handlers_.find(what.request);
    if (found == handlers_.end()) continue;
    auto* handler = found->second;
    if (what.terminal()) handlers_.erase(found);
    handler->on_event(what);
  }
  settle();
}

void loop_core::forget(connection& gone) {
  connections.erase(&gone);
  std::replace(touched_.begin(), touched_.end(), &gone, static_cast<connection*>(nullptr));
}

void loop_core::stay_awake() {
  if (bounds.stay_awake.count() == 0) return;
  awake_until_ = std::chrono::steady_clock::now() + bounds.stay_awake;
  lookout.data = this;
  uv_idle_start(&lookout, [](uv_idle_t* handle) {
    const auto& self = *static_cast<const loop_core*>(handle->data);
    if (std::chrono::steady_clock::now() >= self.awake_until_) uv_idle_stop(handle);
  });
}

void count_refusal(counters& into, const error& why) noexcept {
  (why.code == errc::exhausted ? into.rejected_overload : into.rejected_invalid).add();
}

}  // namespace foretoken::net
