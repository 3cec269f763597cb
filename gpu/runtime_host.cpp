// SPDX-License-Identifier: Apache-2.0
// The runtime on the processor: memory is memory, queued work is done at once. Freed and oversized
// accesses are the address sanitizer's to find.
#include <cstdlib>
#include <cstring>
#include <utility>

#include "gpu/runtime.hpp"

namespace foretoken::gpu::runtime {
namespace {
constexpr int emulated_devices = 2;
constexpr std::size_t alignment = 256;
error gone() {
  return {errc::device, "the device is lost"};
}
}  // namespace

result<std::vector<device_facts>> list_devices() {
  device_facts one;
  one.name = "emulated";
  one.major = 9;
  one.multiprocessors = 4;
  one.memory_bytes = 1u << 30;
  std::vector<device_facts> out(emulated_devices, one);
  for (int i = 0; i < emulated_devices; ++i) out[static_cast<std::size_t>(i)].ordinal = i;
  return out;
}
status use_device(int ordinal) {
  if (ordinal < 0 || ordinal >= emulated_devices) {
    return error{errc::not_found, "no such device", "model.device"};
  }
  set_device_of_thread(ordinal);
  return lost() ? status(gone()) : status();
}
result<memory_state> device_memory() {
  return memory_state{1u << 30, 1u << 30};
}
int multiprocessors(int) {
  return 4;
}
int shared_bytes_max(int) {
  return 227 << 10;
}
bool wide_mma(int) {
  return false;
}

result<buffer> buffer::take(place where, std::size_t bytes) {
  if (lost()) return gone();
  buffer out;
  out.where_ = where;
  out.bytes_ = (bytes + alignment - 1) / alignment * alignment;
  if (out.bytes_ == 0) out.bytes_ = alignment;
  out.data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, out.bytes_));
  if (out.data_ == nullptr) return error{errc::exhausted, "no memory"};
  std::memset(out.data_, 0, out.bytes_);
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
  std::free(data_);
}

result<stream> stream::make() {
  if (lost()) return gone();
  return stream();
}
stream::stream(stream&& other) noexcept : handle_(other.handle_) {}
stream& stream::operator=(stream&& other) noexcept {
  handle_ = other.handle_;
  return *this;
}
stream::~stream() = default;
status stream::upload(void* to, const void* from, std::size_t bytes) const {
  if (lost()) return gone();
  if (bytes > 0) std::memcpy(to, from, bytes);
  return {};
}
status stream::download(void* to, const void* from, std::size_t bytes) const {
  return upload(to, from, bytes);
}
status stream::wait() const {
  return lost() ? status(gone()) : status();
}

bool stream::reached(const std::uint32_t*, std::uint32_t) noexcept {
  return true;
}

status stream::wait_for(const std::uint32_t* flag, std::uint32_t value) const {
  if (lost()) return gone();
  if (*flag == value) return {};
  return error{errc::internal, "the step ended without its mark"};
}

result<recording> recording::make(const stream&, std::function<status()> work) {
  if (lost()) return gone();
  recording out;
  out.work_ = std::move(work);
  return out;
}
recording::recording(recording&& other) noexcept = default;
recording& recording::operator=(recording&& other) noexcept = default;
recording::~recording() = default;
status recording::replay(const stream&) const {
  if (lost()) return gone();
  return work_();
}

}  // namespace foretoken::gpu::runtime
