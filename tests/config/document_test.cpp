// SPDX-License-Identifier: Apache-2.0
// The shipped file and the manual page are what the key table writes, and the file means the
// defaults.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "config/load.hpp"

using namespace foretoken;
using namespace foretoken::config;

namespace {

std::string content(const std::string& name) {
  std::ifstream file(std::string(FORETOKEN_ROOT "/") + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("document: foretoken.toml is the table with the defaults") {
  CHECK(content("foretoken.toml") == write_toml(settings{}));
}

TEST_CASE("document: docs/configuration.md is the table") {
  CHECK(content("docs/configuration.md") == write_markdown());
}

TEST_CASE("document: reading the shipped file changes nothing, and every key is in it") {
  settings all;
  REQUIRE(read_file(FORETOKEN_ROOT "/foretoken.toml", all));
  CHECK(write_toml(all) == write_toml(settings{}));
  CHECK(check(all));
}

TEST_CASE("document: every key can be changed, written and read back") {
  for (const key& each : keys()) {
    CAPTURE(each.name);
    settings changed;
    value other;
    switch (each.type) {
      case key_type::boolean: other = !std::get<bool>(each.get(changed)); break;
      case key_type::number: other = (each.minimum + each.maximum) / 2; break;
      case key_type::text: other = std::string("other \"text\" \\ \t"); break;
      case key_type::text_list: other = std::vector<std::string>{"one", "two \"2\""}; break;
      case key_type::choice:
        other = each.choices.back();
        if (other == each.get(changed)) other = each.choices.front();
        break;
      default:
        other = static_cast<std::int64_t>(each.maximum);
        if (other == each.get(changed)) other = static_cast<std::int64_t>(each.minimum);
    }
    CHECK_FALSE(other == each.get(settings{}));
    REQUIRE(assign(each, other, changed));
    CHECK(each.get(changed) == other);
    settings back;
    const auto read = read_text(write_toml(changed), "t.toml", back);
    if (!read) FAIL(read.error().message);
    CHECK(each.get(back) == other);
    CHECK(write_toml(back) == write_toml(changed));
  }
}

TEST_CASE("document: names are unique, sections contiguous and every key explained") {
  std::set<std::string> names, variables, sections;
  std::string section;
  for (const key& each : keys()) {
    CAPTURE(each.name);
    CHECK(names.insert(each.name).second);
    CHECK(variables.insert(each.environment()).second);
    CHECK(each.help.size() > 10);
    if (each.section() != section) {
      section = each.section();
      CHECK(sections.insert(section).second);
      CHECK_FALSE(section_help(section).empty());
    }
  }
}
