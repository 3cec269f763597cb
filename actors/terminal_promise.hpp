// SPDX-License-Identifier: Apache-2.0
#pragma once
// The promise that an accepted request ends with exactly one terminal event. It goes with the
// request from mailbox to mailbox and has one holder at a time; where it is dropped unkept (an
// actor died and its mailbox with it, the engine stopped) it delivers an error itself. So no place
// where a request may wait needs to remember those that it still holds.

#include <memory>

#include "actors/engine.hpp"

namespace foretoken::actors {

class terminal_promise {
 public:
  terminal_promise() = default;  // promises nothing
  terminal_promise(request_id id,
                   std::shared_ptr<event_sink> sink,
                   std::shared_ptr<counters> metrics);
  terminal_promise(terminal_promise&& other) noexcept = default;
  terminal_promise& operator=(terminal_promise&& other) noexcept;
  ~terminal_promise();

  // Delivers the terminal event now, and counts it (a done event that comes this way is a
  // cancelled one).
  void end(decltype(event::what) what);
  // The holder delivers and counts the terminal event by other means.
  void kept() noexcept;

 private:
  void drop();

  request_id id_{};
  std::shared_ptr<event_sink> sink_;  // null once kept
  std::shared_ptr<counters> metrics_;
};

}  // namespace foretoken::actors
