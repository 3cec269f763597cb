// SPDX-License-Identifier: Apache-2.0
#pragma once
// Finds the device library and says what is there; the only part of gpu/ inside the program.

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/library.hpp"

namespace foretoken::gpu {

// What an operator wrote: "auto", "cpu", "cuda", "cuda:0" or "cuda:0,1".
struct device_choice {
  enum class kind { automatic, cpu, cuda };
  kind what = kind::automatic;
  std::vector<int> ordinals;  // cuda: never empty, each once
};
result<device_choice> parse_device_choice(std::string_view text);

// ../lib/libforetoken_gpu.so from the program's own file.
std::filesystem::path default_library_path();

// Opens the library once in a process; a later call with the same path gives the same object.
// Errors: not_found (no such file), unsupported (built for another program, needs what is missing).
result<const library*> open_library(const std::filesystem::path& path = {});

// The devices that can be used, in the driver's order. Errors say why there is none.
result<std::vector<device_facts>> usable_devices(const library& from);

// One line: "cuda:0 NVIDIA H100 80GB HBM3, compute 9.0, 132 multiprocessors, 79.2 GiB".
std::string describe(const device_facts& device);

}  // namespace foretoken::gpu
