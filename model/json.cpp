// SPDX-License-Identifier: Apache-2.0
#include "model/json.hpp"

#include <unordered_set>
#include <vector>

namespace foretoken::model {
namespace {

// Deepest nesting of brackets outside strings; the text need not be valid.
int depth_of(std::string_view text) noexcept {
  int depth = 0, deepest = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

result<json> parse_json(std::span<const std::byte> text, const std::string& name) {
  const std::string_view view(reinterpret_cast<const char*>(text.data()), text.size());
  if (depth_of(view) > json_depth_max) return corrupt(name, "the JSON is nested too deeply");
  std::vector<std::unordered_set<std::string>> open;  // the keys of every open object
  std::string duplicate;
  const auto watch = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end && !open.empty()) open.pop_back();
    if (event == json::parse_event_t::key && !open.empty()) {
      const auto& key = value.get_ref<const std::string&>();
      if (!open.back().insert(key).second && duplicate.empty()) duplicate = "'" + key + "'";
    }
    return true;
  };
  try {
    json parsed = json::parse(view.begin(), view.end(), watch);
    if (!duplicate.empty()) return corrupt(name, "the key " + duplicate + " occurs twice");
    return parsed;
  } catch (const json::parse_error& failure) {
    return corrupt(name, "not valid JSON at byte " + std::to_string(failure.byte));
  } catch (const json::exception&) {
    return corrupt(name, "not valid JSON: a number is out of range");
  }
}

const json* member(const json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const json* json_reader::find(const std::string& path) const {
  const json* at = &object_;
  std::size_t from = 0;
  while (at != nullptr) {
    const auto dot = path.find('.', from);
    at = member(*at, path.substr(from, dot == std::string::npos ? dot : dot - from));
    if (dot == std::string::npos) break;
    from = dot + 1;
  }
  return at;
}

result<scalar> json_reader::fetch(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr) return scalar{};
  if (value->is_number_unsigned()) {
    const auto number = value->get<std::uint64_t>();
    return scalar{number > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(number)};
  }
  if (value->is_number_integer()) return scalar{value->get<std::int64_t>()};
  if (value->is_number_float()) return scalar{value->get<double>()};
  if (value->is_boolean()) return scalar{value->get<bool>()};
  if (value->is_string()) return scalar{value->get<std::string>()};
  return corrupt(key, "this key must be a single value");
}

}  // namespace foretoken::model
