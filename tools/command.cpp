// SPDX-License-Identifier: Apache-2.0
#include "tools/command.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <spdlog/fmt/fmt.h>

#include "config/load.hpp"
#include "model/model_file.hpp"

extern char** environ;

namespace foretoken::tools {
namespace {

constexpr std::size_t stdin_bytes_max = 64u << 20;

std::vector<std::pair<std::string, std::string>> environment() {
  std::vector<std::pair<std::string, std::string>> out;
  for (char** at = environ; at != nullptr && *at != nullptr; ++at) {
    const std::string_view entry = *at;
    const auto equals = entry.find('=');
    if (entry.starts_with("FORETOKEN_") && equals != std::string_view::npos) {
      out.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
    }
  }
  return out;
}

status set_flag(const char* flag,
                const char* name,
                const std::string& text,
                config::settings& all) {
  if (text.empty()) return {};
  auto set = config::assign_text(*config::find_key(name), text, all);
  if (!set) return invalid(flag, std::move(set).error().message);
  return {};
}

status set_pair(const std::string& pair, config::settings& all) {
  const auto equals = pair.find('=');
  if (equals == std::string::npos)
    return invalid("--set", "expected section.key=value, found " + pair);
  const std::string name = pair.substr(0, equals);
  const config::key* chosen = config::find_key(name);
  if (chosen != nullptr) {
    auto set = config::assign_text(*chosen, pair.substr(equals + 1), all);
    if (!set) return invalid("--set " + name, std::move(set).error().message);
    return {};
  }
  std::vector<std::string> names;
  for (const config::key& each : config::keys()) names.push_back(each.name);
  const std::string near = config::nearest(name, names);
  return invalid("--set",
                 "unknown key " + name + (near.empty() ? "" : "; did you mean " + near + "?"));
}

}  // namespace

int report(const error& failure) {
  std::fprintf(stderr, "foretoken: %s\n", to_string(failure).c_str());
  switch (failure.code) {
    case errc::invalid_argument:
    case errc::not_found:
    case errc::unsupported:
    case errc::corrupt: return exit_usage;
    case errc::device: return exit_device;
    default: return exit_failure;
  }
}

int report_usage(const error& failure) {
  const int code = report(failure);
  return code == exit_device ? exit_device : exit_usage;
}

void settings_flags::add(CLI::App& app) {
  app.add_option("--config", file_, "Configuration file (TOML)");
  app.add_option("--set", sets_, "section.key=value; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--model", model_, "A .gguf file or a Hugging Face folder");
  app.add_option("--precision", precision_, "exact, fast or float32 (model.precision)");
  app.add_option("--device", device_, "auto, cpu, cuda or cuda:N (model.device)");
  app.add_option("--threads", threads_, "Compute threads (cpu.threads)");
  app.add_option("--kv-bytes", kv_bytes_, "KV pool, for example 256MiB (cache.kv_bytes)");
  app.add_option("--kv", kv_, "auto, f16, bf16 or int8: how keys and values are stored (cache.kv)");
  app.add_option("--log-level", log_level_, "trace, debug, info, warn, error or off");
  app.add_option("--log-format", log_format_, "plain or json");
}

result<config::settings> settings_flags::load() const {
  config::settings all;
  if (!file_.empty()) FORETOKEN_TRY(config::read_file(file_, all));
  FORETOKEN_TRY(config::read_environment(environment(), all));
  for (const std::string& pair : sets_) FORETOKEN_TRY(set_pair(pair, all));
  FORETOKEN_TRY(set_flag("--model", "model.path", model_, all));
  FORETOKEN_TRY(set_flag("--precision", "model.precision", precision_, all));
  FORETOKEN_TRY(set_flag("--device", "model.device", device_, all));
  FORETOKEN_TRY(set_flag("--threads", "cpu.threads", threads_, all));
  FORETOKEN_TRY(set_flag("--kv-bytes", "cache.kv_bytes", kv_bytes_, all));
  FORETOKEN_TRY(set_flag("--kv", "cache.kv", kv_, all));
  FORETOKEN_TRY(set_flag("--log-level", "log.level", log_level_, all));
  FORETOKEN_TRY(set_flag("--log-format", "log.format", log_format_, all));
  FORETOKEN_TRY(config::check(all));
  log::configure(all.log.lowest, all.log.how);
  return all;
}

void config_flags::add(CLI::App& app) {
  app.add_flag("--check-config", check, "Check the configuration and exit");
  app.add_flag("--print-config", print, "Print the effective configuration and exit");
  app.add_flag("--markdown", markdown, "With --print-config: print the manual page of all keys");
}

int config_flags::run(const settings_flags& flags) const {
  const auto all = flags.load();
  if (!all) return report_usage(all.error());
  if (print) {
    const std::string page = markdown ? config::write_markdown() : config::write_toml(*all);
    std::fwrite(page.data(), 1, page.size(), stdout);
  } else {
    std::puts("configuration: ok");
  }
  return std::fflush(stdout) == 0 ? exit_success : exit_failure;
}

void use_cache_folder(config::settings& all) {
  std::filesystem::path& folder = all.engine.cpu.packed.folder;
  if (!folder.empty()) return;
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  if (cache != nullptr && *cache == '/') {
    folder = std::filesystem::path(cache) / "foretoken/packed";
  } else if (home != nullptr && *home == '/') {
    folder = std::filesystem::path(home) / ".cache/foretoken/packed";
  }
}

result<std::string> read_prompt(const std::string& given) {
  if (given != "-") return given;
  std::string text;
  char buffer[1 << 16];
  for (std::size_t got = 1; got > 0;) {
    got = std::fread(buffer, 1, sizeof buffer, stdin);
    text.append(buffer, got);
    if (text.size() > stdin_bytes_max) return invalid("prompt", "stdin holds more than 64 MiB");
  }
  if (std::ferror(stdin) != 0) return invalid("prompt", "cannot read stdin");
  return text;
}

progress_bar::progress_bar() : terminal_(isatty(STDERR_FILENO) == 1) {}

void progress_bar::show(const char* stage, std::uint64_t done, std::uint64_t total) {
  if (!terminal_ || total == 0) return;
  const int permille =
      static_cast<int>(1000.0 * static_cast<double>(done) / static_cast<double>(total));
  if (permille == last_permille_) return;
  last_permille_ = permille;
  drawn_ = true;
  const int filled = std::min(permille, 1000) / 25;
  const std::string bar = std::string(static_cast<std::size_t>(filled), '#') +
                          std::string(static_cast<std::size_t>(40 - filled), '.');
  std::fprintf(stderr, "\r%-20s [%s] %3d%%", stage, bar.c_str(), permille / 10);
}

void progress_bar::finish() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
  last_permille_ = -1;
}

void add_version(CLI::App& app, action& chosen) {
  CLI::App* command = app.add_subcommand("version", "Print the version");
  command->callback([&chosen] {
    chosen = [] {
      std::puts("foretoken " FORETOKEN_VERSION);
      return int{exit_success};
    };
  });
}

}  // namespace foretoken::tools
