// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one table of configuration keys: name, type, range, help and the member it sets. The shipped
// file, docs/configuration.md, the environment and --set are all made from it.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.hpp"
#include "config/settings.hpp"

namespace foretoken::config {

enum class key_type { boolean, integer, number, bytes, duration, text, choice, text_list };
const char* key_type_name(key_type type) noexcept;

// A value on its way to or from a setting. bytes and duration (milliseconds) are integers.
using value = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

struct key {
  std::string name;  // "section.key"
  key_type type = key_type::text;
  double minimum = 0, maximum = 0;                   // integer, number, bytes, duration
  std::vector<std::string> choices;                  // choice
  std::string help;                                  // one or two plain sentences
  std::function<void(settings&, const value&)> set;  // REQUIRES an accepted value
  std::function<value(const settings&)> get;

  std::string section() const { return name.substr(0, name.find('.')); }
  std::string leaf() const { return name.substr(name.find('.') + 1); }
  std::string environment() const;  // FORETOKEN_SECTION_KEY
  std::string range() const;        // "1 to 1024", "exact, float32", or empty
};

// In the order of the shipped file: sections are contiguous.
const std::vector<key>& keys();
const key* find_key(std::string_view name);
std::string section_help(std::string_view section);

// Checks type-independent rules (range, choices) and sets the member. The error's field is the key.
status assign(const key& chosen, const value& given, settings& into);
// From a flag or the environment: the text of one value. Sizes and durations may carry units.
status assign_text(const key& chosen, std::string_view text, settings& into);

// "256 MiB", "64KB", "1024" -> bytes; "25 s", "500ms", "2 min" -> milliseconds.
result<std::int64_t> parse_bytes(std::string_view text);
result<std::int64_t> parse_duration(std::string_view text);
std::string format_bytes(std::int64_t bytes);
std::string format_duration(std::int64_t milliseconds);

// The known name nearest to a misspelt one, or empty when none is near.
std::string nearest(std::string_view wrong, const std::vector<std::string>& known);

}  // namespace foretoken::config
