// SPDX-License-Identifier: Apache-2.0
#pragma once
// JSON in and out. Reading is bounded and strict: no duplicate keys, NaN, comments, byte order
// mark, invalid UTF-8 or trailing bytes. Writing appends to a string.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.hpp"

namespace foretoken::net {

struct json_value;
using json_array = std::vector<json_value>;
using json_object = std::vector<std::pair<std::string, json_value>>;  // in the order given

struct json_value {
  std::variant<std::nullptr_t,
               bool,
               std::int64_t,
               std::uint64_t,  // only above the range of int64
               double,
               std::string,
               json_array,
               json_object>
      data = nullptr;

  bool is_null() const noexcept { return data.index() == 0; }
  const bool* boolean() const noexcept { return std::get_if<bool>(&data); }
  const std::int64_t* integer() const noexcept { return std::get_if<std::int64_t>(&data); }
  const std::string* string() const noexcept { return std::get_if<std::string>(&data); }
  const json_array* array() const noexcept { return std::get_if<json_array>(&data); }
  const json_object* object() const noexcept { return std::get_if<json_object>(&data); }
  const json_value* find(std::string_view key) const noexcept;  // of an object; null when absent
};

struct json_limits {
  int depth_max = 32;
  int values_max = 262'144;
};

// Errors: invalid_argument; field = the top-level key that was being read, when there is one.
result<json_value> parse_json(std::string_view text, json_limits limits);

// A name of the client's, short enough for an error: at most 64 bytes, whole characters.
std::string clipped(std::string_view name);

void write_json_string(std::string& out, std::string_view text);  // quoted and escaped
void write_json_number(std::string& out, float number);           // shortest form that reads back
void write_json_number(std::string& out, std::int64_t number);
void write_json_number(std::string& out, int number);

}  // namespace foretoken::net
