// SPDX-License-Identifier: Apache-2.0
#include "net/websocket.hpp"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <wslay/wslay.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/assert.hpp"

namespace foretoken::net {
namespace {

time_point now() {
  return std::chrono::steady_clock::now();
}

constexpr std::size_t key_length = 24;  // 16 bytes in base64

bool is_base64_of_16(std::string_view key) {
  const auto digit = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
  };
  return key.size() == key_length && key.ends_with("==") &&
         std::all_of(key.begin(), key.end() - 2, digit);
}

}  // namespace

std::string websocket_accept(std::string_view key) {
  if (!is_base64_of_16(key)) return {};
  std::string salted(key);
  salted += "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  std::array<unsigned char, SHA_DIGEST_LENGTH> digest{};
  SHA1(reinterpret_cast<const unsigned char*>(salted.data()), salted.size(), digest.data());
  std::array<unsigned char, 32> text{};
  const int length = EVP_EncodeBlock(text.data(), digest.data(), static_cast<int>(digest.size()));
  return {reinterpret_cast<const char*>(text.data()), static_cast<std::size_t>(length)};
}

struct websocket::callbacks {
  static websocket& self(void* data) { return *static_cast<websocket*>(data); }

  static ssize_t receive(
      wslay_event_context_ptr frames, uint8_t* out, size_t room, int, void* data) {
    auto& unread = self(data).unread_;
    if (unread.empty()) {
      wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
      return -1;
    }
    const auto count = std::min(room, unread.size());
    self(data).screen_.pass(unread.substr(0, count),
                            [&](const frame_header& frame) { self(data).begin_frame(frame); });
    std::memcpy(out, unread.data(), count);
    unread.remove_prefix(count);
    return static_cast<ssize_t>(count);
  }
  static ssize_t send(
      wslay_event_context_ptr frames, const uint8_t* bytes, size_t count, int, void* data) {
    std::string_view text(reinterpret_cast<const char*>(bytes), count);
    // A close frame of wslay's own without a code answers broken framing: we say which fault it
    // was.
    if (text == std::string_view("\x88\x00", 2) && wslay_event_get_close_received(frames) == 0) {
      self(data).peer_.write(std::string_view("\x88\x02\x03\xEA", 4));  // 1002
      return static_cast<ssize_t>(count);
    }
    self(data).peer_.write(text);
    return static_cast<ssize_t>(count);
  }
  static void message(wslay_event_context_ptr,
                      const wslay_event_on_msg_recv_arg* what,
                      void* data) {
    auto& it = self(data);
    if (wslay_is_ctrl_frame(what->opcode)) return;
    it.in_message_ = false;
    it.fragments_ = 0;
    if (it.close_sent_) return;
    if (what->opcode == WSLAY_BINARY_FRAME) return it.close(1003, "messages are text");
    it.messages_.on_message({reinterpret_cast<const char*>(what->msg), what->msg_length});
  }
};

websocket::websocket(loop_core& core, connection& peer)
    : core_(core),
      peer_(peer),
      heard_(now()),
      pinged_(heard_),
      messages_(core, core.metrics().websocket_errors, [this](std::string_view message) {
        if (close_sent_) return;
        const wslay_event_msg frame{
            WSLAY_TEXT_FRAME, reinterpret_cast<const uint8_t*>(message.data()), message.size()};
        wslay_event_queue_msg(frames_, &frame);
        peer_.touch();
      }) {
  const wslay_event_callbacks table{
      callbacks::receive, callbacks::send, nullptr, nullptr, nullptr, nullptr, callbacks::message};
  FORETOKEN_ASSERT(wslay_event_context_server_init(&frames_, &table, this) ==
                   0);  // fails on no memory
  wslay_event_config_set_max_recv_msg_length(frames_, core.bounds.websocket_message_bytes_max);
}

websocket::~websocket() {
  wslay_event_context_free(frames_);
}

void websocket::begin_frame(const frame_header& frame) {
  if (frame.opcode == WSLAY_PING) {
    // wslay answers every ping; a peer that sends them but never reads must not fill our memory.
    if (peer_.pending_bytes() == 0) pongs_ = 0;
    if (++pongs_ > core_.bounds.websocket_pongs_max) close(1008, "too many pings");
    return;
  }
  if (frame.opcode == WSLAY_CONNECTION_CLOSE) {
    // wslay takes half a close code for none.
    if (frame.payload_bytes == 1) close(1002, "");
    return;
  }
  if (frame.opcode == WSLAY_PONG) return;
  if (!in_message_) message_begun_ = now();
  in_message_ = true;
  if (!frame.last && ++fragments_ > core_.bounds.websocket_fragments_max)
    close(1008, "too many fragments");
  // A length with its first bit set is broken framing, which wslay refuses.
  const bool large = frame.payload_bytes > core_.bounds.websocket_message_bytes_max;
  if (large && frame.payload_bytes <= INT64_MAX) close(1009, "message too large");
}

void websocket::close(std::uint16_t code, std::string_view reason) {
  if (close_sent_) return;
  close_sent_ = true;
  if (code != 1000 && code != 1001) core_.metrics().websocket_errors.add();
  wslay_event_queue_close(frames_, code, reinterpret_cast<const uint8_t*>(reason.data()),
                          reason.size());
  peer_.touch();
}

void websocket::on_data(std::string_view bytes) {
  heard_ = pinged_ = now();
  unread_ = bytes;
  pump();
  unread_ = {};
}

void websocket::pump() {
  while (!unread_.empty() && !failed_ && !peer_.closing()) {
    const auto before = unread_.size();
    // One slice at a time, so that what a slice makes us answer is counted before the next is read.
    const auto later = unread_.substr(std::min<std::size_t>(unread_.size(), 4096));
    unread_ = unread_.substr(0, unread_.size() - later.size());
    if (wslay_event_recv(frames_) != 0) failed_ = true;
    unread_ = later.empty() ? unread_.substr(unread_.size()) : later;
    flush_frames();
    if (unread_.size() >= before || close_sent_) break;
    if (!wslay_event_get_read_enabled(frames_)) break;
  }
  if (failed_) core_.metrics().websocket_errors.add();
}

void websocket::flush_frames() {
  if (wslay_event_want_write(frames_) != 0 && wslay_event_send(frames_) != 0) failed_ = true;
}

void websocket::on_settle() {
  flush_frames();
  if (peer_.pending_bytes() == 0) pongs_ = 0;
  const bool over = failed_ || saw_eof_ || wslay_event_get_close_sent(frames_) != 0;
  if (over) {
    close_sent_ = true;
    messages_.abandon_all();  // nobody is left to read the answers
    peer_.close_after_flush();
  } else {
    peer_.read_more(!peer_.output_full());
  }
}

void websocket::on_eof() {
  saw_eof_ = true;
  peer_.close_now();
}

void websocket::on_tick(time_point at) {
  if (peer_.output_full()) {
    // We do not read, so the peer can be neither late nor silent.
    heard_ = pinged_ = message_begun_ = at;
    return;
  }
  if (in_message_ && at - message_begun_ > core_.bounds.websocket_message_deadline) {
    close(1008, "message not finished in time");
    return;
  }
  if (at - heard_ > 2 * core_.bounds.websocket_ping) return peer_.close_now();
  if (at - pinged_ > core_.bounds.websocket_ping) {
    pinged_ = at;
    const wslay_event_msg ping{WSLAY_PING, nullptr, 0};
    wslay_event_queue_msg(frames_, &ping);
    peer_.touch();
  }
}

void websocket::on_stop() {
  close(1001, "the server is stopping");
  flush_frames();
}

}  // namespace foretoken::net
