// SPDX-License-Identifier: Apache-2.0
// foretoken devices: what a model could run on here, and why not on what is missing.
#include <cstdio>
#include <memory>
#include <thread>

#include "cpu/backend.hpp"
#include "gpu/devices.hpp"
#include "tools/command.hpp"

namespace foretoken::tools {
namespace {

void print_gpus(const gpu::library& library) {
  const auto all = library.devices();
  if (!all) return void(std::printf("cuda    none: %s\n", all.error().message.c_str()));
  if (all->empty()) std::puts("cuda    none: the driver sees no device");
  for (const gpu::device_facts& each : *all) {
    std::printf("%s\n", gpu::describe(each).c_str());
  }
}

int run_devices(const settings_flags& flags) {
  const auto settings = flags.load();
  if (!settings) return report_usage(settings.error());
  std::printf("cpu     %s, %u threads\n", cpu::path_name(cpu::isa::automatic),
              std::thread::hardware_concurrency());
  const auto library = gpu::open_library(settings->engine.gpu_library);
  if (library) {
    print_gpus(**library);
  } else {
    std::printf("cuda    none: %s\n", library.error().message.c_str());
  }
  return std::fflush(stdout) == 0 ? exit_success : exit_failure;
}

}  // namespace

void add_devices(CLI::App& app, action& chosen) {
  auto flags = std::make_shared<settings_flags>();
  CLI::App* command = app.add_subcommand("devices", "List the devices, and why one is not usable");
  flags->add(*command);
  command->callback([&chosen, flags] { chosen = [flags] { return run_devices(*flags); }; });
}

}  // namespace foretoken::tools
