// SPDX-License-Identifier: Apache-2.0
#pragma once
// What every connection shares: the loop, the engine, the books of running requests, and the port
// through which engine threads hand over events. Everything but port::deliver and port::wake runs
// on the loop's thread.

#include <uv.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "actors/engine.hpp"
#include "net/options.hpp"

namespace foretoken::net {

using time_point = std::chrono::steady_clock::time_point;

// Thread-safe. Wakes the loop only when its queue was empty; drops what comes after close().
class port final : public actors::event_sink {
 public:
  explicit port(uv_async_t& wake) : wake_(&wake) {}
  void deliver(std::vector<actors::event> events) noexcept override;
  void wake() noexcept;
  void close() noexcept;
  std::vector<actors::event> take() noexcept;

 private:
  std::mutex guard_;
  uv_async_t* wake_;  // null after close
  std::vector<actors::event> queue_;
};

// Receives the events of the requests it submitted.
class event_handler {
 public:
  virtual ~event_handler() = default;
  virtual void on_event(actors::event& what) = 0;
};

class connection;

class loop_core {
 public:
  loop_core(actors::engine& served, const options& chosen) : engine(served), bounds(chosen) {}

  actors::engine& engine;
  const options bounds;
  uv_loop_t loop{};
  uv_idle_t lookout{};  // while it is active the loop does not sleep
  std::shared_ptr<port> events;
  std::unordered_set<connection*> connections;
  std::string http_authority;  // "127.0.0.1:8080", as it stands in Host
  bool http_loopback = true;
  bool accepting = true;
  std::uint64_t next_name = 0;  // makes answer ids unique in this process
  std::string metrics_page;     // scrape storms read a copy
  time_point metrics_page_made{};

  counters& metrics() noexcept { return engine.metrics(); }
  result<request_id> submit(actors::generate_request request, event_handler& handler);
  result<request_id> tokenize(std::string text,
                              tokenizer::encode_options how,
                              event_handler& handler);
  void cancel(request_id id);       // its terminal event still comes
  void abandon(request_id id);      // cancel, and the handler hears no more
  void touch(connection& changed);  // flushed at the end of this turn
  void settle();                    // flush what was touched
  void dispatch();                  // hand out what engine threads delivered
  void forget(connection& gone);
  void stay_awake();  // something was done: the loop looks for more before it sleeps

 private:
  std::unordered_map<request_id, event_handler*> handlers_;
  std::vector<connection*> touched_;
  time_point awake_until_{};
};

// Counts a refusal under the right reason.
void count_refusal(counters& into, const error& why) noexcept;

}  // namespace foretoken::net
