// SPDX-License-Identifier: Apache-2.0
#pragma once
// Memory for weights: large mappings on huge pages, cut into blocks, so that small matrices share a
// huge page and streaming them does not miss the TLB. A mapping goes back when its last block does.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.hpp"

namespace foretoken::cpu {

// Owns its bytes: 64-byte aligned, zero at first.
class memory_block {
 public:
  memory_block() = default;
  // Error: exhausted.
  static result<memory_block> take(std::uint64_t bytes);
  std::byte* data() const noexcept { return bytes_.get(); }

 private:
  explicit memory_block(std::shared_ptr<std::byte> bytes) noexcept : bytes_(std::move(bytes)) {}
  std::shared_ptr<std::byte> bytes_;
};

}  // namespace foretoken::cpu
