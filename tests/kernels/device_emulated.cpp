// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <new>

#include "gpu/spmd/block.hpp"
#include "tests/kernels/device.hpp"

namespace foretoken::test {

bool device_present() {
  return true;
}
const char* device_name() {
  return "emulated";
}
int device_multiprocessors() {
  return 4;  // few, so that blocks go around their loops
}
int device_passes() {
  return 3;
}
void begin_pass(int pass) {
  using gpu::spmd::schedule;
  constexpr schedule orders[] = {schedule::forward, schedule::reverse, schedule::shuffled};
  gpu::spmd::use_schedule(orders[pass], 7);
}
void* device_take(std::size_t bytes) {
  void* const at = ::operator new(bytes);  // aligned to 16, exact for the sanitizer
  std::memset(at, 0xFF, bytes);
  return at;
}
void device_release(void* at) {
  ::operator delete(at);
}
void device_write(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void device_read(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
gpu::launch_context device_context() {
  return {.multiprocessors = device_multiprocessors(), .dependent = false};
}

}  // namespace foretoken::test
