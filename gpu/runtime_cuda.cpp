// SPDX-License-Identifier: Apache-2.0
// The runtime on a CUDA device. Every return code is read; see runtime.hpp for what a failure
// means.
#include <cuda_runtime.h>

#include <utility>

#include "gpu/runtime.hpp"

namespace foretoken::gpu::runtime {
namespace {

error gone() {
  return {errc::device, "the device is lost until the process is started anew"};
}

std::string words(const char* what, cudaError_t code) {
  return std::string(what) + ": " + cudaGetErrorName(code) + ", " + cudaGetErrorString(code);
}

// After a full memory the device goes on; after anything else nothing is certain.
status checked(const char* what, cudaError_t code) {
  if (code == cudaSuccess) return {};
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return error{errc::exhausted, words(what, code)};
  }
  return lose(words(what, code));
}

constexpr int oldest_major = 8;  // mma.m16n8k16 with f16, cp.async

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

result<std::vector<device_facts>> list_devices() {
  if (lost()) return gone();
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return error{errc::not_found, "no NVIDIA driver"};
  }
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorNoDevice) return std::vector<device_facts>{};
  if (code == cudaErrorInsufficientDriver) {
    return error{errc::unsupported, "the driver supports CUDA " + version_text(driver) +
                                        "; needed is " + version_text(CUDART_VERSION)};
  }
  if (code != cudaSuccess) return error{errc::not_found, words("counting devices", code)};
  std::vector<device_facts> out;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp facts{};
    device_facts one;
    one.ordinal = i;
    const cudaError_t asked = cudaGetDeviceProperties(&facts, i);
    if (asked != cudaSuccess) {
      one.problem = words("properties", asked);
    } else {
      one.name = facts.name;
      one.major = facts.major;
      one.minor = facts.minor;
      one.multiprocessors = facts.multiProcessorCount;
      one.memory_bytes = facts.totalGlobalMem;
      if (one.major < oldest_major) one.problem = "too old: compute capability 8.0 is needed";
    }
    out.push_back(std::move(one));
  }
  return out;
}

namespace {

// A context sets the default stack of 1 KiB aside for every thread the device can have at once, 264
// MiB on 132 multiprocessors. Our kernels have none (scripts/check_kernels.py), and the driver
// makes room for one that needs some. A size that somebody chose stays, and it goes without this
// saving.
void give_up_stacks() {
  constexpr std::size_t usual = 1024;
  std::size_t now = 0;
  if (cudaDeviceGetLimit(&now, cudaLimitStackSize) == cudaSuccess && now == usual &&
      cudaDeviceSetLimit(cudaLimitStackSize, 0) == cudaSuccess) {
    return;
  }
  static_cast<void>(cudaGetLastError());
}

}  // namespace

status use_device(int ordinal) {
  set_device_of_thread(ordinal);
  if (lost()) return gone();
  FORETOKEN_TRY(checked("choosing the device", cudaSetDevice(ordinal)));
  give_up_stacks();
  // The executor's thread has nothing else to do while its step runs, and sees the end sooner.
  return checked("device flags", cudaSetDeviceFlags(cudaDeviceScheduleSpin));
}

result<memory_state> device_memory() {
  if (lost()) return gone();
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  FORETOKEN_TRY(checked("asking for free memory", cudaMemGetInfo(&free_bytes, &total_bytes)));
  return memory_state{free_bytes, total_bytes};
}

namespace {

int attribute(cudaDeviceAttr which, int ordinal, int otherwise) {
  int found = 0;
  const bool known = !lost() && cudaDeviceGetAttribute(&found, which, ordinal) == cudaSuccess;
  return known ? found : otherwise;
}

}  // namespace

int multiprocessors(int ordinal) {
  return attribute(cudaDevAttrMultiProcessorCount, ordinal, 1);
}
int shared_bytes_max(int ordinal) {
  return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal, 48 << 10);
}
bool wide_mma(int ordinal) {
  return attribute(cudaDevAttrComputeCapabilityMajor, ordinal, 0) == 9;
}

result<buffer> buffer::take(place where, std::size_t bytes) {
  if (lost()) return gone();
  buffer out;
  out.where_ = where;
  out.bytes_ = bytes == 0 ? 256 : bytes;
  void* at = nullptr;
  if (where == place::pinned) {
    FORETOKEN_TRY(checked("pinned memory", cudaHostAlloc(&at, out.bytes_, cudaHostAllocPortable)));
    out.data_ = static_cast<std::byte*>(at);
    return out;
  }
  FORETOKEN_TRY(checked("device memory", cudaMalloc(&at, out.bytes_)));
  out.data_ = static_cast<std::byte*>(at);
  FORETOKEN_TRY(checked("clearing memory", cudaMemset(at, 0, out.bytes_)));
  FORETOKEN_TRY(checked("clearing memory", cudaDeviceSynchronize()));
  return out;
}
buffer::buffer(buffer&& other) noexcept
    : where_(other.where_),
      ordinal_(other.ordinal_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}
buffer& buffer::operator=(buffer&& other) noexcept {
  std::swap(where_, other.where_);
  std::swap(ordinal_, other.ordinal_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
buffer::~buffer() {
  if (data_ == nullptr || lost(ordinal_)) return;
  const auto code = where_ == place::pinned ? cudaFreeHost(data_) : cudaFree(data_);
  static_cast<void>(checked("freeing memory", code));
}

result<stream> stream::make() {
  if (lost()) return gone();
  stream out;
  int lowest = 0;
  int highest = 0;
  FORETOKEN_TRY(checked("priorities", cudaDeviceGetStreamPriorityRange(&lowest, &highest)));
  FORETOKEN_TRY(checked(
      "stream", cudaStreamCreateWithPriority(&out.handle_, cudaStreamNonBlocking, highest)));
  return out;
}
stream::stream(stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
stream& stream::operator=(stream&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}
stream::~stream() {
  if (handle_ == nullptr || lost()) return;
  static_cast<void>(checked("ending a stream", cudaStreamDestroy(handle_)));
}
status stream::upload(void* to, const void* from, std::size_t bytes) const {
  if (lost()) return gone();
  if (bytes == 0) return {};
  return checked("copy to the device",
                 cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, handle_));
}
status stream::download(void* to, const void* from, std::size_t bytes) const {
  if (lost()) return gone();
  if (bytes == 0) return {};
  return checked("copy from the device",
                 cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, handle_));
}
status stream::wait() const {
  if (lost()) return gone();
  return checked("step", cudaStreamSynchronize(handle_));
}

bool stream::reached(const std::uint32_t* flag, std::uint32_t value) noexcept {
  constexpr unsigned looks_max = 1024;
  if (lost() || __atomic_load_n(flag, __ATOMIC_ACQUIRE) == value) return true;
  if (++looks_ < looks_max) return false;
  looks_ = 0;
  return cudaStreamQuery(handle_) != cudaErrorNotReady;
}

status stream::wait_for(const std::uint32_t* flag, std::uint32_t value) const {
  if (lost()) return gone();
  constexpr int looks = 4096;  // some tens of microseconds between questions to the driver
  const auto seen = [&] { return __atomic_load_n(flag, __ATOMIC_ACQUIRE) == value; };
  for (;;) {
    for (int i = 0; i < looks; ++i) {
      if (seen()) return {};
    }
    const cudaError_t code = cudaStreamQuery(handle_);
    if (code == cudaErrorNotReady) continue;
    FORETOKEN_TRY(checked("step", code));
    return seen() ? status() : lose("the step ended without its mark");
  }
}

result<recording> recording::make(const stream& on, std::function<status()> work) {
  if (lost()) return gone();
  FORETOKEN_TRY(
      checked("recording", cudaStreamBeginCapture(on.handle(), cudaStreamCaptureModeThreadLocal)));
  const status queued = work();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(on.handle(), &graph);
  if (!queued) {
    if (graph != nullptr && !lost()) static_cast<void>(cudaGraphDestroy(graph));
    return queued.error();
  }
  FORETOKEN_TRY(checked("recording", ended));
  recording out;
  cudaGraphExec_t runnable = nullptr;
  const status made = checked("recording", cudaGraphInstantiate(&runnable, graph, 0));
  out.graph_ = runnable;
  if (!lost()) FORETOKEN_TRY(checked("recording", cudaGraphDestroy(graph)));
  if (!made) return made.error();
  FORETOKEN_TRY(checked("recording", cudaGraphUpload(runnable, on.handle())));
  return out;
}
recording::recording(recording&& other) noexcept
    : graph_(std::exchange(other.graph_, nullptr)), work_(std::move(other.work_)) {}
recording& recording::operator=(recording&& other) noexcept {
  std::swap(graph_, other.graph_);
  std::swap(work_, other.work_);
  return *this;
}
recording::~recording() {
  if (graph_ == nullptr || lost()) return;
  static_cast<void>(
      checked("ending a recording", cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_))));
}
status recording::replay(const stream& on) const {
  if (lost()) return gone();
  return checked("step", cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), on.handle()));
}

}  // namespace foretoken::gpu::runtime
