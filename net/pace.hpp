// SPDX-License-Identifier: Apache-2.0
#pragma once
// Whether something that a peer began to send keeps coming: a kilobyte a second, once it has had
// its grace. Time is an argument.

#include <chrono>
#include <cstdint>

namespace foretoken::net {

class pace {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  void begin(time_point at, std::uint64_t bytes) noexcept {
    begun_ = at;
    bytes_ = bytes;
  }
  void add(std::uint64_t bytes) noexcept { bytes_ += bytes; }
  bool too_slow(time_point at, std::chrono::milliseconds grace) const noexcept {
    const auto spent = std::chrono::duration_cast<std::chrono::milliseconds>(at - begun_);
    return spent > grace && bytes_ < static_cast<std::uint64_t>(spent.count());
  }

 private:
  time_point begun_{};
  std::uint64_t bytes_ = 0;
};

}  // namespace foretoken::net
