// SPDX-License-Identifier: Apache-2.0
#include "base/log.hpp"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace foretoken::log {
namespace {

std::atomic<level> lowest_level{level::info};
std::atomic<format> chosen_format{format::plain};

spdlog::logger& sink() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>("foretoken",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_level(spdlog::level::trace);
    made->set_pattern("%v");
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

const char* level_name(level severity) {
  switch (severity) {
    case level::trace: return "trace";
    case level::debug: return "debug";
    case level::info: return "info";
    case level::warn: return "warn";
    default: return "error";
  }
}

// Control bytes would let a message forge a second line, so they are escaped in both formats.
std::string escape(std::string_view text, bool json) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      if (json && (c == '"' || c == '\\')) out += '\\';
      out += c;
    }
  }
  return out;
}

std::string timestamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() %
      1'000'000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:06}Z", text, micros);
}

}  // namespace

void configure(level lowest, format how) {
  lowest_level.store(lowest, std::memory_order_relaxed);
  chosen_format.store(how, std::memory_order_relaxed);
}

bool enabled(level severity) noexcept {
  return severity >= lowest_level.load(std::memory_order_relaxed);
}

void write(level severity, std::string_view component, std::string_view message) noexcept {
  try {
    const bool json = chosen_format.load(std::memory_order_relaxed) == format::json;
    const auto line =
        json ? fmt::format(R"({{"ts":"{}","level":"{}","component":"{}","msg":"{}"}})", timestamp(),
                           level_name(severity), component, escape(message, true))
             : fmt::format("{} {} [{}] {}", timestamp(), level_name(severity), component,
                           escape(message, false));
    sink().info("{}", line);
  } catch (...) {
    // A log line that cannot be written must not stop the service.
  }
}

}  // namespace foretoken::log
