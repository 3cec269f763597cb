// SPDX-License-Identifier: Apache-2.0
#pragma once
// What every subcommand shares: the flags that reach settings, and how errors are shown.

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/result.hpp"
#include "config/settings.hpp"
#include "tools/exit_code.hpp"

namespace foretoken::tools {

// The work of the chosen subcommand; main() runs it after parsing.
using action = std::function<int()>;

int report(const error& failure);  // "foretoken: field: message" on stderr; the exit code
// The same for what can only be the caller's doing: exit_usage, or exit_device.
int report_usage(const error& failure);

// Flags that every program with a model takes. Precedence: flags, environment, file, default.
class settings_flags {
 public:
  void add(CLI::App& app);
  result<config::settings> load() const;  // also applies the log options

 private:
  std::string file_, model_, precision_, device_, threads_, kv_bytes_, kv_, log_level_, log_format_;
  std::vector<std::string> sets_;
};

// --check-config and --print-config [--markdown]; done() is true when one of them was given.
struct config_flags {
  bool check = false, print = false, markdown = false;
  void add(CLI::App& app);
  bool given() const { return check || print; }
  int run(const settings_flags& flags) const;
};

// What the configuration leaves to the environment: folders in the user's cache.
void use_cache_folder(config::settings& all);

// The prompt on the command line, or stdin for "-".
result<std::string> read_prompt(const std::string& given);

// Draws a bar on stderr when that is a terminal; otherwise silent. finish() ends its line.
class progress_bar {
 public:
  progress_bar();
  ~progress_bar() { finish(); }
  void show(const char* stage, std::uint64_t done, std::uint64_t total);
  void finish();

 private:
  bool terminal_;
  bool drawn_ = false;
  int last_permille_ = -1;
};

void add_version(CLI::App& app, action& chosen);
void add_tokenize(CLI::App& app, action& chosen);
void add_devices(CLI::App& app, action& chosen);
void add_inspect(CLI::App& app, action& chosen);
void add_bench(CLI::App& app, action& chosen);
void add_complete(CLI::App& app, action& chosen);
void add_serve(CLI::App& app, action& chosen);

}  // namespace foretoken::tools
