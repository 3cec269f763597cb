// SPDX-License-Identifier: Apache-2.0
#include "net/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>

#include <nlohmann/json.hpp>

namespace foretoken::net {
namespace {

// Receives nlohmann's parsing events and keeps the bounds. Iterative: depth costs no stack.
class builder {
 public:
  explicit builder(json_limits limits) : limits_(limits) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) {
    if (value <= static_cast<std::uint64_t>(INT64_MAX))
      return add(static_cast<std::int64_t>(value));
    return add(value);
  }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return fail("binary values are not accepted"); }
  bool start_object(std::size_t) { return open(json_object{}); }
  bool start_array(std::size_t) { return open(json_array{}); }
  bool end_array() { return close(); }
  bool end_object() {
    if (!unique_keys(std::get<json_object>(open_.back()->data))) {
      return fail("an object has the same key twice");
    }
    return close();
  }
  bool key(std::string& name) {
    if (open_.size() == 1) top_key_ = name;
    std::get<json_object>(open_.back()->data).emplace_back(std::move(name), json_value{});
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    return fail("not valid JSON at byte " + std::to_string(position));
  }

  json_value take() { return std::move(root_); }
  error failure() const { return invalid(clipped(top_key_), message_); }

 private:
  bool fail(std::string message) {
    if (message_.empty()) message_ = std::move(message);
    return false;
  }
  template <class T>
  json_value* place(T&& value) {
    if (++values_ > limits_.values_max) return nullptr;
    if (open_.empty()) {
      root_.data = std::forward<T>(value);
      return &root_;
    }
    auto& parent = open_.back()->data;
    if (auto* list = std::get_if<json_array>(&parent)) {
      return &list->emplace_back(json_value{std::forward<T>(value)});
    }
    auto& slot = std::get<json_object>(parent).back().second;
    slot.data = std::forward<T>(value);
    return &slot;
  }
  template <class T>
  bool add(T&& value) {
    return place(std::forward<T>(value)) != nullptr || fail("too many values");
  }
  template <class T>
  bool open(T&& empty) {
    if (static_cast<int>(open_.size()) >= limits_.depth_max) return fail("nested too deeply");
    auto* placed = place(std::forward<T>(empty));
    if (placed == nullptr) return fail("too many values");
    open_.push_back(placed);  // stays put: its parent gains nothing while it is open
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  static bool unique_keys(const json_object& members) {
    std::vector<std::string_view> keys;
    keys.reserve(members.size());
    for (const auto& member : members) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    return std::adjacent_find(keys.begin(), keys.end()) == keys.end();
  }

  json_limits limits_;
  int values_ = 0;
  json_value root_;
  std::vector<json_value*> open_;
  std::string top_key_;
  std::string message_;
};

}  // namespace

std::string clipped(std::string_view name) {
  constexpr std::size_t most = 64;
  if (name.size() <= most) return std::string(name);
  auto end = most;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0u) == 0x80u) --end;
  return std::string(name.substr(0, end));
}

const json_value* json_value::find(std::string_view key) const noexcept {
  if (const auto* members = object()) {
    for (const auto& [name, value] : *members) {
      if (name == key) return &value;
    }
  }
  return nullptr;
}

result<json_value> parse_json(std::string_view text, json_limits limits) {
  // The parser skips a byte order mark and takes NUL for the end of the text; both are refused
  // here.
  if (text.starts_with("\xEF\xBB\xBF")) return invalid("", "a byte order mark is not accepted");
  if (text.find('\0') != std::string_view::npos) return invalid("", "a raw NUL byte is not JSON");
  builder made(limits);
  try {
    const bool whole = nlohmann::json::sax_parse(text.begin(), text.end(), &made);
    if (!whole) return made.failure();
  } catch (const std::exception&) {
    return invalid("", "not valid JSON");
  }
  return made.take();
}

void write_json_string(std::string& out, std::string_view text) {
  constexpr char hex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += "\\u00";
      out += hex[byte >> 4];
      out += hex[byte & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

void write_json_number(std::string& out, float number) {
  // JSON has no infinity; this is what clients of such interfaces expect for "impossible".
  if (!std::isfinite(number)) number = -9999.0f;
  char buffer[48];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
  out.append(buffer, end);
}
void write_json_number(std::string& out, std::int64_t number) {
  char buffer[24];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
  out.append(buffer, end);
}
void write_json_number(std::string& out, int number) {
  write_json_number(out, static_cast<std::int64_t>(number));
}

}  // namespace foretoken::net
