// SPDX-License-Identifier: Apache-2.0
// The two symbols that libforetoken_gpu.so shows.
#include "gpu/backend.hpp"

using foretoken::gpu::library;

extern "C" {

[[gnu::visibility("default")]] const char* foretoken_gpu_version();
[[gnu::visibility("default")]] const library* foretoken_gpu_open();

const char* foretoken_gpu_version() {
  static const std::string version = foretoken::gpu::interface_version();
  return version.c_str();
}

const library* foretoken_gpu_open() {
  return &foretoken::gpu::linked();
}
}
