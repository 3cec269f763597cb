// SPDX-License-Identifier: Apache-2.0
#pragma once
// SHA-256, for names that must not collide: what is kept on disk under the hash of its source.

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace foretoken {

using sha256_digest = std::array<std::byte, 32>;

// Fed in pieces. One thread at a time.
class sha256 {
 public:
  sha256();
  ~sha256();
  sha256(sha256&&) noexcept;
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  // Ends this hash; nothing may be added afterwards. Empty when the library refused anything.
  std::optional<sha256_digest> finish();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

std::string hex(std::span<const std::byte> bytes);  // lower case

}  // namespace foretoken
