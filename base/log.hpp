// SPDX-License-Identifier: Apache-2.0
#pragma once
// Logs to stderr, plain or JSON lines. Never user text: no prompt, no output, no key.
// error = someone must act; warn = degraded; info = life cycle; debug = per request; trace = per
// step.

#include <string>
#include <string_view>

#include <spdlog/fmt/fmt.h>

namespace foretoken::log {

enum class level { trace, debug, info, warn, error, off };
enum class format { plain, json };

// Before the first message; later calls change level and format at once. Thread-safe.
void configure(level lowest, format how);
bool enabled(level severity) noexcept;
void write(level severity, std::string_view component, std::string_view message) noexcept;

template <class... Args>
void info(std::string_view component, fmt::format_string<Args...> text, Args&&... args) {
  if (enabled(level::info))
    write(level::info, component, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void warn(std::string_view component, fmt::format_string<Args...> text, Args&&... args) {
  if (enabled(level::warn))
    write(level::warn, component, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void error(std::string_view component, fmt::format_string<Args...> text, Args&&... args) {
  if (enabled(level::error))
    write(level::error, component, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void debug(std::string_view component, fmt::format_string<Args...> text, Args&&... args) {
  if (enabled(level::debug))
    write(level::debug, component, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace foretoken::log
