// SPDX-License-Identifier: Apache-2.0
#include "config/load.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>

#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "gpu/devices.hpp"

namespace foretoken::config {
namespace {

std::string place(std::string_view name, std::int64_t line) {
  return std::string(name) + ":" + std::to_string(line) + ": ";
}

// A key of a file is user text: only what is printable is shown, and not too much of it.
std::string printable(std::string_view text) {
  std::string out(text.substr(0, 64));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return out;
}

// What the parser would accept or answer badly: size, NUL, byte order mark, endless lines.
status screen(std::string_view toml, std::string_view name) {
  if (toml.size() > file_bytes_max) {
    return invalid("config", place(name, 1) + "the file is larger than " +
                                 format_bytes(static_cast<std::int64_t>(file_bytes_max)));
  }
  if (toml.starts_with("\xEF\xBB\xBF") || toml.starts_with("\xFF\xFE") ||
      toml.starts_with("\xFE\xFF")) {
    return invalid("config", place(name, 1) + "starts with a byte order mark; save as plain UTF-8");
  }
  std::int64_t line = 1;
  std::size_t length = 0;
  for (const char c : toml) {
    if (c == '\0') return invalid("config", place(name, line) + "contains a NUL byte");
    length = c == '\n' ? 0 : length + 1;
    if (length > line_bytes_max) {
      return invalid("config", place(name, line) + "the line is longer than " +
                                   std::to_string(line_bytes_max) + " bytes");
    }
    if (c == '\n') ++line;
  }
  return {};
}

std::string found(const toml::node& node) {
  if (const auto* number = node.as_floating_point()) {
    return "the number " + (std::isnan(**number)   ? std::string("nan")
                            : std::isinf(**number) ? std::string("inf")
                                                   : std::to_string(**number));
  }
  switch (node.type()) {
    case toml::node_type::string: return "a text";
    case toml::node_type::integer: return "the integer " + std::to_string(**node.as_integer());
    case toml::node_type::boolean: return "a boolean";
    case toml::node_type::array: return "a list";
    case toml::node_type::table: return "a table";
    default: return "a date or time";
  }
}

result<value> convert(const key& chosen, const toml::node& node) {
  const auto wrong = [&](const char* expected) {
    return invalid(chosen.name, std::string("expected ") + expected + ", found " + found(node));
  };
  const auto* whole = node.as_integer();
  const auto* text = node.as_string();
  switch (chosen.type) {
    case key_type::boolean:
      if (const auto* flag = node.as_boolean()) return value(**flag);
      return wrong("true or false");
    case key_type::integer:
      if (whole != nullptr) return value(**whole);
      return wrong("a whole number");
    case key_type::number:
      if (whole != nullptr) return value(static_cast<double>(**whole));
      if (const auto* number = node.as_floating_point()) return value(**number);
      return wrong("a number");
    case key_type::bytes:
    case key_type::duration: {
      if (whole != nullptr) return value(**whole);
      if (text == nullptr) {
        return wrong(chosen.type == key_type::bytes ? "a size" : "a duration");
      }
      auto parsed = chosen.type == key_type::bytes ? parse_bytes(**text) : parse_duration(**text);
      if (!parsed) return std::move(parsed).error();
      return value(*parsed);
    }
    case key_type::text:
    case key_type::choice:
      if (text != nullptr) return value(**text);
      return wrong("a text in quotes");
    case key_type::text_list: {
      const auto* list = node.as_array();
      if (list == nullptr) return wrong("a list of texts");
      std::vector<std::string> texts;
      for (const auto& entry : *list) {
        if (entry.as_string() == nullptr) return wrong("a list of texts only");
        texts.push_back(**entry.as_string());
      }
      return value(std::move(texts));
    }
  }
  return wrong("another type");
}

error unknown(std::string_view kind,
              const std::string& wrong,
              std::string_view where,
              const std::vector<std::string>& known) {
  const std::string near = nearest(wrong, known);
  std::string message =
      std::string(where) + "unknown " + std::string(kind) + " " + printable(wrong);
  if (!near.empty()) message += "; did you mean " + near + "?";
  return invalid(printable(wrong), std::move(message));
}

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const key& each : keys()) names.push_back(each.name);
  return names;
}

std::vector<std::string> section_names() {
  std::vector<std::string> names;
  for (const key& each : keys()) {
    if (std::ranges::find(names, each.section()) == names.end()) names.push_back(each.section());
  }
  return names;
}

status read_section(const std::string& section,
                    const toml::table& table,
                    std::string_view name,
                    settings& into) {
  for (const auto& [leaf, node] : table) {
    const std::string full = section + "." + std::string(leaf.str());
    const auto line = static_cast<std::int64_t>(leaf.source().begin.line);
    const key* chosen = find_key(full);
    if (chosen == nullptr) return unknown("key", full, place(name, line), key_names());
    auto converted = convert(*chosen, node);
    auto set = converted ? assign(*chosen, *converted, into) : status(std::move(converted).error());
    if (!set) return invalid(full, place(name, line) + set.error().message);
  }
  return {};
}

}  // namespace

status read_text(std::string_view toml, std::string_view name, settings& into) {
  FORETOKEN_TRY(screen(toml, name));
  const toml::parse_result parsed = toml::parse(toml, name);
  if (!parsed) {
    const auto line = static_cast<std::int64_t>(parsed.error().source().begin.line);
    return invalid("config",
                   place(name, line) + printable(parsed.error().description().substr(0, 200)));
  }
  const auto sections = section_names();
  for (const auto& [section, node] : parsed.table()) {
    const std::string shown(section.str());
    const auto line = static_cast<std::int64_t>(section.source().begin.line);
    if (std::ranges::find(sections, shown) == sections.end()) {
      return unknown(node.is_table() ? "section" : "key", shown, place(name, line), sections);
    }
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      return invalid(
          shown, place(name, line) + "expected a section [" + shown + "], found " + found(node));
    }
    FORETOKEN_TRY(read_section(shown, *table, name, into));
  }
  return {};
}

status read_file(const std::filesystem::path& path, settings& into) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) {
    return error{errc::not_found, "cannot read " + path.string() + ": not a file", "config"};
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(file_bytes_max + 1,
                   '\0');  // one byte more than allowed tells a file that is too long
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || (!file.eof() && file.fail())) {
    return error{errc::not_found, "cannot read " + path.string(), "config"};
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  return read_text(text, path.string(), into);
}

status read_environment(const std::vector<std::pair<std::string, std::string>>& variables,
                        settings& into) {
  std::vector<std::string> names;
  for (const key& each : keys()) names.push_back(each.environment());
  for (const auto& [name, text] : variables) {
    const auto at = std::ranges::find(names, name);
    if (at != names.end()) {
      const key& chosen = keys()[static_cast<std::size_t>(at - names.begin())];
      if (auto set = assign_text(chosen, text, into); !set) {
        return invalid(chosen.name, "environment " + name + ": " + set.error().message);
      }
      continue;
    }
    for (const std::string& section : section_names()) {
      const std::string prefix = key{section + ".", {}, 0, 0, {}, {}, {}, {}}.environment();
      if (name.starts_with(prefix)) return unknown("variable", name, "environment: ", names);
    }
  }
  return {};
}

status check(const settings& all) {
  if (auto choice = gpu::parse_device_choice(all.engine.device); !choice) return choice.error();
  if (all.engine.scheduler.step_tokens_max > all.engine.cpu.rows_max) {
    return invalid("scheduler.step_tokens_max", "must be at most cpu.rows_max (" +
                                                    std::to_string(all.engine.cpu.rows_max) + ")");
  }
  if (all.engine.restart_backoff > all.engine.restart_backoff_max) {
    return invalid("actors.restart_backoff", "must be at most actors.restart_backoff_max");
  }
  // Behind a full soft bound one message as large may follow before reading stops.
  if (all.net.output_soft_bytes > all.net.output_hard_bytes / 2) {
    return invalid("net.output_soft_bytes", "must be at most half of net.output_hard_bytes");
  }
  return {};
}

}  // namespace foretoken::config
