// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>

#include <cuda_runtime.h>

#include "tests/kernels/device.hpp"

namespace foretoken::test {
namespace {

void must(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(code));
  std::exit(1);
}

cudaStream_t stream() {
  static const cudaStream_t made = [] {
    cudaStream_t out = nullptr;
    must(cudaStreamCreateWithFlags(&out, cudaStreamNonBlocking));
    return out;
  }();
  return made;
}

cudaDeviceProp& properties() {
  static cudaDeviceProp found = [] {
    cudaDeviceProp out{};
    must(cudaGetDeviceProperties(&out, 0));
    return out;
  }();
  return found;
}

}  // namespace

bool device_present() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}
const char* device_name() {
  return properties().name;
}
int device_multiprocessors() {
  return properties().multiProcessorCount;
}
int device_passes() {
  return 1;
}
void begin_pass(int) {}
void* device_take(std::size_t bytes) {
  void* at = nullptr;
  must(cudaMalloc(&at, bytes > 0 ? bytes : 1));
  must(cudaMemset(at, 0xFF, bytes));
  return at;
}
void device_release(void* at) {
  must(cudaDeviceSynchronize());
  must(cudaFree(at));
}
void device_write(void* to, const void* from, std::size_t bytes) {
  must(cudaDeviceSynchronize());
  must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  must(cudaDeviceSynchronize());  // the copy of pageable memory returns before it has arrived
}
void device_read(void* to, const void* from, std::size_t bytes) {
  must(cudaDeviceSynchronize());
  must(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
gpu::launch_context device_context() {
  return {.stream = stream(),
          .multiprocessors = device_multiprocessors(),
          .shared_bytes_max = static_cast<int>(properties().sharedMemPerBlockOptin),
          .dependent = true,
          .wide_mma = properties().major == 9};
}

}  // namespace foretoken::test
