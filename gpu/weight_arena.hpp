// SPDX-License-Identifier: Apache-2.0
#pragma once
// One buffer of weights, handed out in pieces. The same calls without a buffer only count: what is
// planned and what is taken come from one sequence.

#include <cstddef>
#include <vector>

#include "gpu/runtime.hpp"

namespace foretoken::gpu {

class arena {
 public:
  arena() = default;
  arena(std::byte* base, const runtime::stream* queue) : base_(base), queue_(queue) {}
  bool counting() const noexcept { return base_ == nullptr; }
  std::size_t used() const noexcept { return used_; }
  std::byte* take(std::size_t bytes) {
    std::byte* out = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + alignment - 1) / alignment * alignment;
    return out;
  }
  void put(std::byte* to, const void* from, std::size_t bytes) {
    if (base_ == nullptr || !state_) return;
    state_ = queue_->upload(to, from, bytes);
    if (state_) state_ = queue_->wait();  // pageable memory: the source may go at once
  }
  const float* floats(const std::vector<float>& values) {
    if (values.empty()) return nullptr;
    std::byte* to = take(values.size() * sizeof(float));
    put(to, values.data(), values.size() * sizeof(float));
    return reinterpret_cast<const float*>(to);
  }
  status state() const { return state_; }

 private:
  static constexpr std::size_t alignment = 256;
  std::byte* base_ = nullptr;
  const runtime::stream* queue_ = nullptr;
  std::size_t used_ = 0;
  status state_;
};

}  // namespace foretoken::gpu
