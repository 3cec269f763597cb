// SPDX-License-Identifier: Apache-2.0
#pragma once
// Reads settings from a file and the environment, and writes them out again.

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/keys.hpp"

namespace foretoken::config {

constexpr std::size_t file_bytes_max = 1u << 20;
constexpr std::size_t line_bytes_max = 4096;  // also bounds how deep dotted keys can nest

// Later layers override earlier ones: read_file, then read_environment, then flags (assign_text),
// then check(). Errors are invalid_argument: field = the key, the message starts with "name:line:
// ".
status read_text(std::string_view toml, std::string_view name, settings& into);
status read_file(const std::filesystem::path& path, settings& into);

// Pairs of name and value. FORETOKEN_SECTION_KEY sets section.key; a name that starts with a known
// section but is no key is an error, other names are ignored.
status read_environment(const std::vector<std::pair<std::string, std::string>>& variables,
                        settings& into);

// Rules between keys.
status check(const settings& all);

// The effective file with every key, its help and range: what `foretoken.toml` ships with the
// defaults.
std::string write_toml(const settings& all);
// docs/configuration.md.
std::string write_markdown();

}  // namespace foretoken::config
