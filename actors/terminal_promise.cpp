// SPDX-License-Identifier: Apache-2.0
#include "actors/terminal_promise.hpp"

#include <utility>

namespace foretoken::actors {

terminal_promise::terminal_promise(request_id id,
                                   std::shared_ptr<event_sink> sink,
                                   std::shared_ptr<counters> metrics)
    : id_(id), sink_(std::move(sink)), metrics_(std::move(metrics)) {}

terminal_promise& terminal_promise::operator=(terminal_promise&& other) noexcept {
  if (this == &other) return *this;
  drop();
  id_ = other.id_;
  sink_ = std::exchange(other.sink_, nullptr);
  metrics_ = std::exchange(other.metrics_, nullptr);
  return *this;
}

terminal_promise::~terminal_promise() {
  drop();
}

void terminal_promise::drop() {
  if (sink_) end(error_event{{errc::device, "the engine stopped before this request was done"}});
}

void terminal_promise::end(decltype(event::what) what) {
  if (!sink_) return;
  const auto sink = sink_;
  if (std::holds_alternative<error_event>(what)) metrics_->finished_error.add();
  if (std::holds_alternative<done_event>(what)) metrics_->finished_cancelled.add();
  kept();
  std::vector<event> events;
  events.push_back({id_, std::move(what)});
  sink->deliver(std::move(events));
}

void terminal_promise::kept() noexcept {
  if (!std::exchange(sink_, nullptr)) return;
  metrics_->requests_open.add(-1);
}

}  // namespace foretoken::actors
