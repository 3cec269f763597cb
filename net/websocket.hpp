// SPDX-License-Identifier: Apache-2.0
#pragma once
// JSON messages over WebSocket (RFC 6455), framed by wslay with bounds of our own around it.

#include <optional>
#include <string>

#include "net/connection.hpp"
#include "net/frame_screen.hpp"
#include "net/json_protocol.hpp"

struct wslay_event_context;

namespace foretoken::net {

// The value of Sec-WebSocket-Accept; empty when `key` is not 16 bytes in base64.
std::string websocket_accept(std::string_view key);

class websocket final : public protocol {
 public:
  websocket(loop_core& core, connection& peer);
  ~websocket() override;
  void on_data(std::string_view bytes) override;
  void on_eof() override;
  void on_settle() override;
  void on_tick(time_point now) override;
  void on_stop() override;
  gauge& open_gauge() noexcept override { return core_.metrics().connections_websocket; }

 private:
  struct callbacks;
  void pump();
  void flush_frames();
  void close(std::uint16_t code, std::string_view reason);
  void begin_frame(const frame_header& frame);

  loop_core& core_;
  connection& peer_;
  wslay_event_context* frames_ = nullptr;
  std::string_view unread_;
  frame_screen screen_;  // sees what wslay reads, just before it does
  bool close_sent_ = false, failed_ = false, saw_eof_ = false;
  bool in_message_ = false;
  int fragments_ = 0, pongs_ = 0;
  time_point heard_{}, pinged_{}, message_begun_{};
  json_protocol messages_;
};

}  // namespace foretoken::net
