// SPDX-License-Identifier: Apache-2.0
// The runtime on the processor: memory is memory, queued work is done at once. Freed and oversized
// accesses are the address sanitizer's to find.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "gpu/runtime.hpp"

namespace foretoken::gpu::runtime {
namespace {
std::atomic<bool> lost_flag{false};
constexpr std::size_t alignment = 256;
error gone() {
  return {errc::device, "the device is lost"};
}
}  // namespace

bool lost() noexcept {
  return lost_flag.load();
}
error lose(std::string why) {
  lost_flag.store(true);
  return {errc::device, std::move(why)};
}
// For tests, which lose a device more than once in a process.
void find_again() {
  lost_flag.store(false);
}

result<std::vector<device_facts>> list_devices() {
  device_facts only;
  only.name = "emulated";
  only.major = 9;
  only.multiprocessors = 4;
  only.memory_bytes = only.memory_free_bytes = 1u << 30;
  return std::vector<device_facts>{only};
}
status use_device(int ordinal) {
  if (lost()) return gone();
  if (ordinal == 0) return {};
  return error{errc::not_found, "no such device", "model.device"};
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
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}
buffer& buffer::operator=(buffer&& other) noexcept {
  std::swap(where_, other.where_);
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
