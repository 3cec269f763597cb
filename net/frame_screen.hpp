// SPDX-License-Identifier: Apache-2.0
#pragma once
// Reads along in a WebSocket byte stream and tells of each frame when its header is whole. wslay
// tells only once the first payload byte has come, and a peer need not send one.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

namespace foretoken::net {

struct frame_header {
  int opcode = 0;
  bool last = false;  // the FIN bit
  std::uint64_t payload_bytes = 0;
};

class frame_screen {
 public:
  // Bytes of the stream, in order and in any pieces.
  template <class Seen>
  void pass(std::string_view bytes, Seen&& seen) {
    while (!bytes.empty()) {
      if (payload_left_ == 0) {
        header_[have_++] = static_cast<std::uint8_t>(bytes.front());
        bytes.remove_prefix(1);
        if (have_ == header_bytes()) seen(finish_header());
      } else {
        const auto skipped = std::min<std::uint64_t>(payload_left_, bytes.size());
        bytes.remove_prefix(skipped);
        payload_left_ -= skipped;
      }
    }
  }

 private:
  // Two bytes, an extended length, the mask; known once two bytes are there.
  std::size_t header_bytes() const noexcept {
    if (have_ < 2) return 2;
    const int length = header_[1] & 0x7F;
    const std::size_t extended = length == 126 ? 2 : length == 127 ? 8 : 0;
    return 2 + extended + ((header_[1] & 0x80) != 0 ? 4 : 0);
  }
  frame_header finish_header() noexcept {
    std::uint64_t length = header_[1] & 0x7Fu;
    const std::size_t extended = length == 126 ? 2 : length == 127 ? 8 : 0;
    if (extended != 0) length = 0;
    for (std::size_t i = 0; i < extended; ++i) length = length << 8 | header_[2 + i];
    have_ = 0;
    payload_left_ = length;
    return {header_[0] & 0x0F, (header_[0] & 0x80) != 0, length};
  }

  std::array<std::uint8_t, 14> header_{};
  std::size_t have_ = 0;
  std::uint64_t payload_left_ = 0;
};

}  // namespace foretoken::net
