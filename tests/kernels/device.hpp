// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where the kernels under test run: on the emulator (device_emulated.cpp) or on a CUDA device
// (device_cuda.cpp). The tests are the same.

#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "gpu/kernels.hpp"

namespace foretoken::test {

bool device_present();
const char* device_name();
int device_multiprocessors();
// Every case is run once a pass: the emulator's schedules; one on a device.
int device_passes();
void begin_pass(int pass);
void* device_take(std::size_t bytes);  // exact; filled with 0xFF, NaN in every format
void device_release(void* at);
void device_write(void* to, const void* from, std::size_t bytes);
void device_read(void* to, const void* from, std::size_t bytes);  // after all queued work
gpu::launch_context device_context();

template <class T>
class device_array {
 public:
  device_array() = default;
  explicit device_array(std::size_t size)
      : at_(static_cast<T*>(device_take(size * sizeof(T)))), size_(size) {}
  explicit device_array(std::span<const T> values) : device_array(values.size()) { write(values); }
  explicit device_array(const std::vector<T>& values) : device_array(std::span<const T>(values)) {}
  device_array(device_array&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  device_array& operator=(device_array&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~device_array() { device_release(at_); }

  T* get() const { return at_; }
  std::size_t size() const { return size_; }
  void write(std::span<const T> values) { device_write(at_, values.data(), values.size_bytes()); }
  std::vector<T> read() const {
    std::vector<T> out(size_);
    device_read(out.data(), at_, size_ * sizeof(T));
    return out;
  }

 private:
  T* at_ = nullptr;
  std::size_t size_ = 0;
};

template <class T>
device_array<T> zeros(std::size_t size) {
  return device_array<T>(std::vector<T>(size, T{}));
}

}  // namespace foretoken::test
