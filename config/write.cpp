// SPDX-License-Identifier: Apache-2.0
// The key table as text: the effective file and the page of the manual.
#include <sstream>

#include "config/load.hpp"

namespace foretoken::config {
namespace {

std::string in_quotes(std::string_view text) {
  static constexpr std::string_view digits = "0123456789ABCDEF";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += "\\u00";
      out += digits[byte >> 4];
      out += digits[byte & 15];
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string literal(const key& chosen, const value& given) {
  switch (chosen.type) {
    case key_type::boolean: return std::get<bool>(given) ? "true" : "false";
    case key_type::integer: return std::to_string(std::get<std::int64_t>(given));
    case key_type::number: {
      std::ostringstream out;
      out.precision(17);
      out << std::showpoint << std::get<double>(given);
      return out.str();
    }
    case key_type::bytes: {
      const std::string shown = format_bytes(std::get<std::int64_t>(given));
      return shown.back() == 'B' ? in_quotes(shown) : shown;
    }
    case key_type::duration: return in_quotes(format_duration(std::get<std::int64_t>(given)));
    case key_type::text:
    case key_type::choice: return in_quotes(std::get<std::string>(given));
    case key_type::text_list: {
      std::string out = "[";
      for (const std::string& each : std::get<std::vector<std::string>>(given)) {
        out.append(out.size() > 1 ? ", " : "").append(in_quotes(each));
      }
      return out + "]";
    }
  }
  return {};
}

// Breaks a comment at spaces so that no line is longer than `width`.
std::string comment(std::string_view text, std::size_t width = 96) {
  std::string out;
  while (!text.empty()) {
    std::size_t cut = text.size();
    if (cut > width) {
      cut = text.rfind(' ', width);
      if (cut == std::string_view::npos) cut = text.size();
    }
    out.append("# ").append(text.substr(0, cut)).append("\n");
    text.remove_prefix(std::min(cut + 1, text.size()));
  }
  return out;
}

}  // namespace

std::string write_toml(const settings& all) {
  std::string out =
      "# SPDX-License-Identifier: Apache-2.0\n"
      "# Every key of foretoken with its value. Flags override the environment "
      "(FORETOKEN_SECTION_KEY),\n"
      "# which overrides this file. Sizes are bytes or texts like \"256 MiB\"; durations are "
      "milliseconds\n"
      "# or texts like \"25 s\". Written by: foretoken --print-config\n";
  std::string section;
  for (const key& each : keys()) {
    if (each.section() != section) {
      section = each.section();
      out.append("\n").append(comment(section_help(section)));
      out.append("[").append(section).append("]\n");
    }
    const std::string range = each.range();
    out += comment(range.empty() ? each.help : each.help + " (" + range + ")");
    out += each.leaf() + " = " + literal(each, each.get(all)) + "\n";
  }
  return out;
}

std::string write_markdown() {
  const settings defaults;
  std::string out =
      "<!-- SPDX-License-Identifier: Apache-2.0 -->\n"
      "<!-- Written by `foretoken --print-config --markdown`; do not edit. -->\n"
      "# Configuration\n\n"
      "A file is given with `--config FILE`; it is optional, and so is every key. A flag (`--set "
      "section.key=value`,\nor one of its own) overrides the environment "
      "(`FORETOKEN_SECTION_KEY`), "
      "which overrides the file, which overrides\nthe default. Unknown keys, wrong types and "
      "values out "
      "of range are refused with their line.\n`foretoken --check-config --config FILE` checks a "
      "file; "
      "`foretoken --print-config` prints what would be used.\n\n"
      "Sizes are bytes or texts like `\"256 MiB\"`; durations are milliseconds or texts like "
      "`\"25 s\"`.\n";
  std::string section;
  for (const key& each : keys()) {
    if (each.section() != section) {
      section = each.section();
      out += "\n## [" + section + "]\n" + section_help(section) +
             "\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n";
    }
    out += "| `" + each.name + "` | " + key_type_name(each.type) + " | `" +
           literal(each, each.get(defaults)) + "` | " + each.range() + " | " + each.help + " |\n";
  }
  return out;
}

}  // namespace foretoken::config
