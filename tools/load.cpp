// SPDX-License-Identifier: Apache-2.0
// Requests leave on a fixed schedule whether or not earlier ones were answered, and each latency
// counts from the moment its request was due: a server that stalls cannot hide it (no coordinated
// omission).
#include "tools/load.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "net/json.hpp"
#include "tools/command.hpp"

namespace foretoken::tools {
namespace {

using clock = std::chrono::steady_clock;
constexpr std::chrono::seconds answer_time_max{120};  // after the last request was sent

struct pending {
  clock::time_point due;
  double first = -1, last = -1;  // seconds after `due`
  bool ended = false, failed = false;
  int tokens = 0;
};

struct connection {
  int socket = -1;
  std::string out, in;
  connection() = default;
  connection(connection&& from) noexcept
      : socket(std::exchange(from.socket, -1)), out(std::move(from.out)), in(std::move(from.in)) {}
  ~connection() {
    if (socket >= 0) close(socket);
  }
};

result<int> dial(const std::string& server) {
  const auto colon = server.rfind(':');
  if (colon == std::string::npos) return invalid("--server", "expected HOST:PORT");
  std::string host = server.substr(0, colon);
  if (host.size() > 1 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), server.c_str() + colon + 1, &hints, &found) != 0) {
    return invalid("--server", "cannot resolve " + server);
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int made = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0) continue;
    if (connect(made, at->ai_addr, at->ai_addrlen) == 0) {
      const int on = 1;
      setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      fcntl(made, F_SETFL, fcntl(made, F_GETFL) | O_NONBLOCK);
      return made;
    }
    close(made);
  }
  return invalid("--server", "cannot connect to " + server + ": " + std::strerror(errno));
}

class load_run {
 public:
  explicit load_run(const load_options& chosen) : chosen_(chosen) {}
  status run();
  void print() const;
  bool clean() const {
    return std::ranges::none_of(requests_,
                                [](const pending& each) { return each.failed || !each.ended; });
  }

 private:
  void send_due(clock::time_point now);
  void transfer(connection& at, short events);
  void line(std::string_view text);
  void lose(connection& at);
  clock::time_point due(std::size_t index) const {
    return begin_ + std::chrono::duration_cast<clock::duration>(
                        std::chrono::duration<double>(static_cast<double>(index) / chosen_.rate));
  }

  const load_options& chosen_;
  std::vector<connection> connections_;
  std::vector<pending> requests_;
  std::size_t total_ = 0, ended_ = 0;
  clock::time_point begin_;
};

// The quotes of the searched keys cannot occur inside a JSON string, so finding them is exact.
void load_run::line(std::string_view text) {
  const auto id_at = text.find("\"id\":\"");
  if (id_at == std::string_view::npos) return;
  std::size_t index = requests_.size();
  std::from_chars(text.data() + id_at + 6, text.data() + text.size(), index);
  if (index >= requests_.size() || requests_[index].ended) return;
  pending& each = requests_[index];
  const double now = std::chrono::duration<double>(clock::now() - each.due).count();
  if (text.find("\"event\":\"token\"") != std::string_view::npos) {
    if (each.first < 0) each.first = now;
    ++each.tokens;
    return;
  }
  each.failed = text.find("\"event\":\"done\"") == std::string_view::npos;
  each.last = now;
  each.ended = true;
  ++ended_;
}

void load_run::lose(connection& at) {
  close(at.socket);
  at.socket = -1;
  at.out.clear();
}

void load_run::transfer(connection& at, short events) {
  if ((events & (POLLIN | POLLHUP | POLLERR)) != 0) {
    char buffer[1 << 16];
    const ssize_t got = recv(at.socket, buffer, sizeof buffer, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return lose(at);
    if (got > 0) at.in.append(buffer, static_cast<std::size_t>(got));
    std::size_t from = 0;
    for (std::size_t end = 0; (end = at.in.find('\n', from)) != std::string::npos; from = end + 1) {
      line(std::string_view(at.in).substr(from, end - from));
    }
    at.in.erase(0, from);
  }
  if (!at.out.empty()) {
    const ssize_t sent = send(at.socket, at.out.data(), at.out.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return lose(at);
    if (sent > 0) at.out.erase(0, static_cast<std::size_t>(sent));
  }
}

void load_run::send_due(clock::time_point now) {
  while (requests_.size() < total_ && due(requests_.size()) <= now) {
    const std::size_t index = requests_.size();
    requests_.push_back({due(index)});
    connection& at = connections_[index % connections_.size()];
    if (at.socket < 0) {  // a request that cannot be sent is a failure, not a gap in the figures
      requests_.back().ended = requests_.back().failed = true;
      ++ended_;
      continue;
    }
    // Of one width, so that all have as many tokens.
    const std::string number = chosen_.distinct ? fmt::format("{:05}. ", index) : "";
    std::string prompt;
    net::write_json_string(prompt, number + chosen_.prompt);
    const std::string logprobs =
        chosen_.logprobs < 0 ? "" : fmt::format(",\"logprobs\":{}", chosen_.logprobs);
    at.out += fmt::format(
        "{{\"op\":\"generate\",\"id\":\"{}\",\"prompt\":{},\"max_tokens\":{},"
        "\"temperature\":0{}}}\n",
        index, prompt, chosen_.max_tokens, logprobs);
  }
}

status load_run::run() {
  for (int i = 0; i < chosen_.clients; ++i) {
    auto made = dial(chosen_.server);
    if (!made) return std::move(made).error();
    connections_.emplace_back().socket = *made;
  }
  total_ = static_cast<std::size_t>(std::max(1.0, std::round(chosen_.rate * chosen_.seconds)));
  requests_.reserve(total_);
  progress_bar bar;
  begin_ = clock::now();
  const auto deadline = due(total_) + answer_time_max;
  while (ended_ < total_ && clock::now() < deadline) {
    send_due(clock::now());
    std::vector<pollfd> polled;
    for (const connection& at : connections_) {
      polled.push_back(
          {at.socket, static_cast<short>(at.out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
    }
    int wait_ms = 100;
    if (requests_.size() < total_) {
      const std::chrono::duration<double, std::milli> left = due(requests_.size()) - clock::now();
      wait_ms = std::clamp(static_cast<int>(left.count()), 0, 100);
    }
    if (poll(polled.data(), polled.size(), wait_ms) < 0 && errno != EINTR) break;
    for (std::size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].revents != 0) transfer(connections_[i], polled[i].revents);
    }
    const bool alive =
        std::ranges::any_of(connections_, [](const connection& at) { return at.socket >= 0; });
    if (!alive) break;
    bar.show("requests", ended_, total_);
  }
  return {};
}

double percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const auto at = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(at, 1, sorted.size()) - 1];
}

void load_run::print() const {
  std::vector<double> first, last;
  std::size_t failed = total_ - requests_.size();
  int tokens = 0;
  double span = 0;
  for (const pending& each : requests_) {
    if (!each.ended || each.failed) {
      ++failed;
      continue;
    }
    if (each.first >= 0) first.push_back(each.first * 1e3);
    last.push_back(each.last * 1e3);
    tokens += each.tokens;
    span = std::max(span, std::chrono::duration<double>(each.due - begin_).count() + each.last);
  }
  std::ranges::sort(first);
  std::ranges::sort(last);
  const auto form = [&](const std::vector<double>& from, const char* text) {
    return fmt::format(fmt::runtime(text), percentile(from, 0.5), percentile(from, 0.9),
                       percentile(from, 0.99), percentile(from, 0.999),
                       from.empty() ? 0.0 : from.back());
  };
  const double rate = span > 0 ? static_cast<double>(last.size()) / span : 0;
  const double token_rate = span > 0 ? tokens / span : 0;
  if (chosen_.json) {
    const char* text =
        "{{\"p50\":{:.3f},\"p90\":{:.3f},\"p99\":{:.3f},\"p999\":{:.3f},\"max\":{:.3f}}}";
    fmt::print(
        "{{\"requests\":{},\"failed\":{},\"requests_per_second\":{:.3f},\"events_per_second\":{:."
        "3f},"
        "\"first_token_ms\":{},\"whole_ms\":{}}}\n",
        total_, failed, rate, token_rate, form(first, text), form(last, text));
    return;
  }
  const char* text = "p50 {:8.2f}  p90 {:8.2f}  p99 {:8.2f}  p99.9 {:8.2f}  max {:8.2f} ms";
  fmt::print("requests {} over {} connections, {} failed\n", total_, chosen_.clients, failed);
  fmt::print("answered {:.1f} requests/s, {:.1f} token events/s\n", rate, token_rate);
  fmt::print("first token  {}\nwhole answer {}\n", form(first, text), form(last, text));
}

}  // namespace

void add_load_flags(CLI::App& command, load_options& into) {
  command.add_option("--server", into.server, "HOST:PORT of a server's TCP port: load it instead");
  command.add_option("--clients", into.clients, "Connections of the load")
      ->check(CLI::Range(1, 4096));
  command.add_option("--rate", into.rate, "Requests a second of the load")
      ->check(CLI::Range(0.001, 1e6));
  command.add_option("--max-tokens", into.max_tokens, "Tokens of each request of the load")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--logprobs", into.logprobs, "Alternatives each request of the load asks for")
      ->check(CLI::Range(0, 20));
  command.add_flag("--distinct", into.distinct,
                   "Number the load's prompts, so that none is cached");
  command.add_option("--prompt", into.prompt, "Prompt of each request of the load");
}

int run_load(const load_options& chosen) {
  load_run run(chosen);
  if (auto done = run.run(); !done) return report_usage(done.error());
  run.print();
  if (std::fflush(stdout) != 0) return exit_failure;
  return run.clean() ? exit_success : exit_failure;
}

}  // namespace foretoken::tools
