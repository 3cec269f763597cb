// SPDX-License-Identifier: Apache-2.0
// foretoken serve: the server. The first line on stdout tells the real addresses.
#include <memory>
#include <thread>

#include "actors/engine.hpp"
#include "base/log.hpp"
#include "net/server.hpp"
#include "tools/command.hpp"
#include "tools/draining_engine.hpp"
#include "tools/signals.hpp"
#include "tools/stop_limit.hpp"

namespace foretoken::tools {
namespace {

constexpr std::chrono::seconds health_period{1};
constexpr int unhealthy_checks_max =
    30;  // the actors did not answer for so long: give up, be restarted
// Behind the drain's deadline: what was cancelled then may end, and the actors.
constexpr std::chrono::seconds stop_grace{6};

struct serve_flags {
  settings_flags settings;
  config_flags config;
  std::string http, tcp;
};

enum class end_reason { asked, device_lost, unhealthy };

// Waits until a signal asks for the end, or there is nothing else to do than to be started anew.
end_reason wait_for_end(signals& stop, const actors::engine& served) {
  int unhealthy = 0;
  while (!stop.wait(health_period)) {
    if (served.device_lost()) return end_reason::device_lost;
    unhealthy = served.healthy() ? 0 : unhealthy + 1;
    if (unhealthy >= unhealthy_checks_max) return end_reason::unhealthy;
  }
  return end_reason::asked;
}

// Readiness is false from the start; after the linger nothing new comes in; then streams may
// finish.
void drain(draining_engine& engine,
           net::server& server,
           const config::drain_options& how,
           exit_code code) {
  log::info("serve", "draining: readiness is false, streams have {} ms", how.deadline.count());
  engine.withdraw();
  std::this_thread::sleep_for(
      how.linger);  // a second signal ends the process, so nothing else to do
  server.stop_accepting();
  if (!engine.healthy()) {  // an actor or a step is stuck, and a stop would wait for it
    log::error("serve", "the engine is not healthy: ending without a drain");
    std::_Exit(code == exit_success ? exit_failure : code);
  }
  const stop_limit limit(
      how.deadline + stop_grace, [&engine] { return engine.stats().requests; }, code);
  engine.stop(how.deadline);
  server.stop();
  log::info("serve", "stopped");
}

int serve(const config::settings& all) {
  // Before any thread is started: they must not take the signals. Static: its thread never ends.
  static signals stop;
  progress_bar bar;
  auto started =
      actors::engine::start(all.engine, [&](const char* stage, std::uint64_t done,
                                            std::uint64_t total) { bar.show(stage, done, total); });
  bar.finish();
  if (!started) return report(started.error());  // a supervisor may try again, but for exit_usage
  draining_engine engine(*std::move(started));
  auto server = net::server::start(engine, all.net);
  if (!server) return report(server.error());
  stop.serving();
  std::string ready = "ready";
  if (!(*server)->http_address().empty()) ready += " http=" + (*server)->http_address();
  if (!(*server)->tcp_address().empty()) ready += " tcp=" + (*server)->tcp_address();
  std::puts(ready.c_str());
  if (std::fflush(stdout) != 0) return report({errc::internal, "cannot write to stdout"});

  const end_reason why = wait_for_end(stop, engine);
  if (why == end_reason::unhealthy) {
    log::error("serve", "the actors no longer answer: ending");
    std::_Exit(exit_failure);
  }
  if (why == end_reason::device_lost)
    log::error("serve", "a device is lost: draining, then ending");
  const exit_code code = why == end_reason::device_lost ? exit_device : exit_success;
  drain(engine, **server, all.drain, code);
  return code;
}

int run_serve(const serve_flags& flags) {
  if (flags.config.given()) return flags.config.run(flags.settings);
  auto settings = flags.settings.load();
  if (!settings) return report_usage(settings.error());
  if (!flags.http.empty()) settings->net.http = flags.http;
  if (!flags.tcp.empty()) settings->net.tcp = flags.tcp;
  if (settings->engine.model.empty()) return report_usage(invalid("--model", "is needed"));
  use_cache_folder(*settings);
  return serve(*settings);
}

}  // namespace

void add_serve(CLI::App& app, action& chosen) {
  auto flags = std::make_shared<serve_flags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over HTTP, WebSocket and TCP");
  flags->settings.add(*command);
  flags->config.add(*command);
  command->add_option("--http", flags->http, "HOST:PORT of HTTP and WebSocket (net.http)");
  command->add_option("--tcp", flags->tcp, "HOST:PORT of JSON lines (net.tcp)");
  command->callback([&chosen, flags] { chosen = [flags] { return run_serve(*flags); }; });
}

}  // namespace foretoken::tools
