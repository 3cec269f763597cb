// SPDX-License-Identifier: Apache-2.0
#include "net/server.hpp"

#include <atomic>
#include <csignal>
#include <thread>
#include <vector>

#include "base/assert.hpp"
#include "base/log.hpp"
#include "net/connection.hpp"
#include "net/http_session.hpp"
#include "net/listener.hpp"
#include "net/tcp_lines.hpp"

namespace foretoken::net {
namespace {

constexpr std::uint64_t tick_milliseconds = 100;

constexpr const char* http_full =
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: "
    "0\r\n\r\n";
constexpr const char* tcp_full =
    "{\"id\":null,\"event\":\"error\",\"error\":{\"message\":\"too many connections\",\"type\":"
    "\"rate_limit_error\",\"param\":null,\"code\":\"exhausted\",\"retryable\":true}}\n";

}  // namespace

struct server::state {
  state(engine& served, const options& chosen)
      : core(served, chosen),
        http(
            core,
            [this](connection& peer) { return std::make_unique<http_session>(core, peer); },
            http_full),
        tcp(
            core,
            [this](connection& peer) { return std::make_unique<tcp_lines>(core, peer); },
            tcp_full) {}

  status open() {
    FORETOKEN_ASSERT(uv_loop_init(&core.loop) == 0);
    core.loop.data = this;
    FORETOKEN_ASSERT(uv_async_init(&core.loop, &wake, on_wake) == 0);
    FORETOKEN_ASSERT(uv_timer_init(&core.loop, &ticker) == 0);
    FORETOKEN_ASSERT(uv_idle_init(&core.loop, &core.lookout) == 0);
    core.events = std::make_shared<port>(wake);
    uv_timer_start(&ticker, on_tick, tick_milliseconds, tick_milliseconds);
    if (!core.bounds.http.empty()) {
      FORETOKEN_TRY(http.open(core.bounds.http, "net.http"));
      core.http_authority = http.address();
      core.http_loopback = http.loopback();
    }
    if (!core.bounds.tcp.empty()) FORETOKEN_TRY(tcp.open(core.bounds.tcp, "net.tcp"));
    return {};
  }

  static state& of(uv_handle_t* handle) { return *static_cast<state*>(handle->loop->data); }

  static void on_wake(uv_async_t* handle) {
    auto& self = of(reinterpret_cast<uv_handle_t*>(handle));
    if (self.quiesce.load()) self.close_listeners();
    self.core.dispatch();
    self.core.stay_awake();
    if (self.leave.load()) self.begin_stop();
  }

  static void on_tick(uv_timer_t* handle) {
    auto& self = of(reinterpret_cast<uv_handle_t*>(handle));
    const auto now = std::chrono::steady_clock::now();
    if (self.last_tick != time_point{}) {
      const auto late = now - self.last_tick - std::chrono::milliseconds(tick_milliseconds);
      const double seconds = std::chrono::duration<double>(late).count();
      self.core.metrics().loop_lag.observe(seconds > 0 ? seconds : 0);
    }
    self.last_tick = now;
    std::int64_t pending = 0;
    const std::vector<connection*> peers(self.core.connections.begin(),
                                         self.core.connections.end());
    for (auto* peer : peers) {
      pending += static_cast<std::int64_t>(peer->pending_bytes());
      peer->tick(now);
    }
    self.core.metrics().output_buffer_bytes.set(pending);
    self.core.settle();
    if (self.stopping) self.continue_stop(now);
  }

  void close_listeners() {
    core.accepting = false;
    http.close();
    tcp.close();
  }

  void begin_stop() {
    if (stopping) return;
    stopping = true;
    close_listeners();
    const std::vector<connection*> peers(core.connections.begin(), core.connections.end());
    for (auto* peer : peers) peer->stop();
    core.settle();
    const auto now = std::chrono::steady_clock::now();
    stop_by = now + core.bounds.stop_flush;
    continue_stop(now);
  }

  // Peers that took everything have closed by themselves; the rest goes at the deadline.
  void continue_stop(time_point now) {
    if (!core.connections.empty() && now < stop_by) return;
    const std::vector<connection*> peers(core.connections.begin(), core.connections.end());
    for (auto* peer : peers) peer->close_now();
    close_handles();
  }

  void close_handles() {
    if (std::exchange(handles_closed, true)) return;
    core.events->close();
    uv_close(reinterpret_cast<uv_handle_t*>(&wake), nullptr);
    uv_close(reinterpret_cast<uv_handle_t*>(&ticker), nullptr);
    uv_close(reinterpret_cast<uv_handle_t*>(&core.lookout), nullptr);
  }

  // A server that could not bind: nothing runs yet, so this thread closes what was opened.
  void discard() {
    close_listeners();
    close_handles();
    uv_run(&core.loop, UV_RUN_DEFAULT);
    uv_loop_close(&core.loop);
  }

  void run() {
    uv_run(&core.loop, UV_RUN_DEFAULT);
    const int open_handles = uv_loop_close(&core.loop);
    if (open_handles != 0) log::error("net", "the loop ended with handles open");
  }

  loop_core core;
  listener http, tcp;
  uv_async_t wake{};
  uv_timer_t ticker{};
  std::atomic<bool> quiesce{false}, leave{false};
  bool stopping = false, handles_closed = false;
  time_point last_tick{}, stop_by{};
  std::thread runner;
};

server::server(std::unique_ptr<state> made) : state_(std::move(made)) {}

result<std::unique_ptr<server>> server::start(engine& served, const options& chosen) {
  std::signal(SIGPIPE, SIG_IGN);  // a write to a vanished peer is an error value, not a signal
  auto made = std::make_unique<state>(served, chosen);
  if (auto opened = made->open(); !opened) {
    made->discard();
    return std::move(opened).error();
  }
  made->runner = std::thread([self = made.get()] { self->run(); });
  return std::unique_ptr<server>(new server(std::move(made)));
}

server::~server() {
  stop();
}

const std::string& server::http_address() const noexcept {
  return state_->http.address();
}
const std::string& server::tcp_address() const noexcept {
  return state_->tcp.address();
}

void server::stop_accepting() {
  state_->quiesce.store(true);
  state_->core.events->wake();
}

void server::stop() {
  if (!state_->runner.joinable()) return;
  state_->leave.store(true);
  state_->core.events->wake();
  state_->runner.join();
}

}  // namespace foretoken::net
