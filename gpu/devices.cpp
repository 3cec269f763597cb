// SPDX-License-Identifier: Apache-2.0
#include "gpu/devices.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>

#include <spdlog/fmt/fmt.h>

namespace foretoken::gpu {
namespace {

error wrong_choice() {
  return invalid("model.device", "expected auto, cpu, cuda or cuda: and numbers, as in cuda:0,1");
}

result<std::vector<int>> parse_ordinals(std::string_view list) {
  std::vector<int> out;
  for (bool more = true; more;) {
    const auto comma = list.find(',');
    more = comma != std::string_view::npos;
    const std::string_view one = list.substr(0, comma);
    int ordinal = -1;
    const auto [end, failed] = std::from_chars(one.data(), one.data() + one.size(), ordinal);
    const bool whole = failed == std::errc() && end == one.data() + one.size();
    if (!whole || ordinal < 0 || ordinal > 255) return wrong_choice();
    if (std::ranges::find(out, ordinal) != out.end()) {
      return invalid("model.device", "names cuda:" + std::to_string(ordinal) + " twice");
    }
    out.push_back(ordinal);
    if (more) list.remove_prefix(comma + 1);
  }
  return out;
}

template <class Function>
Function* find(void* opened, const char* symbol) {
  return reinterpret_cast<Function*>(dlsym(opened, symbol));
}

std::string loader_message() {
  const char* said = dlerror();
  return said ? said : "no reason given";
}

result<const library*> open_file(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::exists(path, failed)) {
    return error{errc::not_found, "no device library at " + path.string(), "gpu.library"};
  }
  void* opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (opened == nullptr) {
    return unsupported("gpu.library", "the device library does not load: " + loader_message());
  }
  auto* version = find<version_function>(opened, version_symbol);
  auto* open = find<open_function>(opened, open_symbol);
  if (version == nullptr || open == nullptr) {
    return unsupported("gpu.library", path.string() + " is not a device library of foretoken");
  }
  if (const std::string expected = interface_version(); expected != version()) {
    return unsupported("gpu.library", "the device library is of another build: \"" +
                                          std::string(version()) + "\", not \"" + expected + '"');
  }
  return open();
}

}  // namespace

result<device_choice> parse_device_choice(std::string_view text) {
  device_choice out;
  if (text == "auto") return out;
  out.what = device_choice::kind::cpu;
  if (text == "cpu") return out;
  out.what = device_choice::kind::cuda;
  out.ordinals = {0};
  if (text == "cuda") return out;
  if (!text.starts_with("cuda:")) return wrong_choice();
  auto ordinals = parse_ordinals(text.substr(5));
  if (!ordinals) return std::move(ordinals).error();
  out.ordinals = std::move(ordinals).value();
  return out;
}

std::filesystem::path default_library_path() {
  std::error_code failed;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", failed);
  return (program.parent_path() / "../lib/libforetoken_gpu.so").lexically_normal();
}

result<const library*> open_library(const std::filesystem::path& path) {
  static std::mutex guard;
  static std::map<std::filesystem::path, const library*> opened;
  const auto chosen = path.empty() ? default_library_path() : path;
  const std::lock_guard lock(guard);
  if (const auto known = opened.find(chosen); known != opened.end()) return known->second;
  auto made = open_file(chosen);
  if (made) opened.emplace(chosen, *made);
  return made;
}

result<std::vector<device_facts>> usable_devices(const library& from) {
  auto all = from.devices();
  if (!all) return all;
  std::string problems;
  std::vector<device_facts> out;
  for (device_facts& each : *all) {
    if (each.problem.empty()) {
      out.push_back(std::move(each));
    } else {
      problems += (problems.empty() ? "" : "; ") + describe(each);
    }
  }
  if (!out.empty()) return out;
  return error{errc::not_found, problems.empty() ? "no device" : problems, "model.device"};
}

std::string describe(const device_facts& device) {
  std::string line =
      fmt::format("cuda:{} {}, compute {}.{}, {} multiprocessors, {:.1f} GiB", device.ordinal,
                  device.name, device.major, device.minor, device.multiprocessors,
                  static_cast<double>(device.memory_bytes) / 0x1p30);
  if (!device.problem.empty()) line += ": " + device.problem;
  return line;
}

}  // namespace foretoken::gpu
