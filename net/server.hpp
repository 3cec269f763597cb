// SPDX-License-Identifier: Apache-2.0
#pragma once
// The listening side: HTTP, WebSocket and TCP on one libuv loop that runs on its own thread. Knows
// an engine only through actors/engine.hpp. All member functions may be called from any one thread.

#include <memory>
#include <string>

#include "actors/engine.hpp"
#include "base/result.hpp"
#include "net/options.hpp"

namespace foretoken::net {

class server {
 public:
  // Binds at once and begins to answer. `served` must outlive the server.
  // Errors: invalid_argument with field net.http or net.tcp (bad address, address in use),
  // net.allow_unauthenticated (a bind that is not loopback).
  static result<std::unique_ptr<server>> start(engine& served, const options& chosen);
  ~server();  // stop()

  // The real HOST:PORT; empty when that door is off.
  const std::string& http_address() const noexcept;
  const std::string& tcp_address() const noexcept;

  // No new connections; answers from now on say `Connection: close`.
  void stop_accepting();
  // After engine.stop(): sends what is queued, says goodbye (WebSocket 1001), closes, joins.
  // Idempotent.
  void stop();

 private:
  struct state;
  explicit server(std::unique_ptr<state> made);
  std::unique_ptr<state> state_;
};

}  // namespace foretoken::net
