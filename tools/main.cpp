// SPDX-License-Identifier: Apache-2.0
// The program `foretoken`: one subcommand a file.
#include <memory>

#include "tools/command.hpp"

namespace tools = foretoken::tools;

namespace {

// The program's own flags stand alone (--check-config); those of a subcommand come behind its name,
// and would do nothing before it.
const CLI::Option* misplaced(const CLI::App& app) {
  if (app.get_subcommands().empty()) return nullptr;
  const auto given = app.get_options([](const CLI::Option* each) { return each->count() > 0; });
  return given.empty() ? nullptr : given.front();
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): flags declared wrongly may end the program
int main(int count, char** words) {
  CLI::App app{"foretoken: next-word prediction from language models"};
  app.name("foretoken");
  app.set_help_all_flag("--help-all", "Help of every subcommand");
  app.require_subcommand(0, 1);
  tools::action chosen;
  tools::settings_flags flags;
  tools::config_flags config;
  flags.add(app);
  config.add(app);
  tools::add_serve(app, chosen);
  tools::add_complete(app, chosen);
  tools::add_tokenize(app, chosen);
  tools::add_inspect(app, chosen);
  tools::add_devices(app, chosen);
  tools::add_bench(app, chosen);
  tools::add_version(app, chosen);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& stopped) {
    const int code = app.exit(stopped);
    return code == 0 ? tools::exit_success : tools::exit_usage;
  }
  if (const CLI::Option* flag = misplaced(app)) {
    return tools::report_usage(foretoken::invalid(
        flag->get_name(), "belongs behind " + app.get_subcommands().front()->get_name()));
  }
  if (config.given()) return config.run(flags);
  if (!chosen) {
    std::fputs(app.help().c_str(), stderr);
    return tools::exit_usage;
  }
  return chosen();
}
