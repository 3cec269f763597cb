// SPDX-License-Identifier: Apache-2.0
// Entries 59 to 67 of the catalogue that need a connection.
#include "tests/net/server_fixture.hpp"

using namespace foretoken;
using namespace foretoken::test;
using namespace std::chrono_literals;

namespace {

// A close frame's payload: code, reason.
std::string closing(int code, const std::string& reason = "") {
  return std::string{static_cast<char>(code >> 8), static_cast<char>(code & 255)} + reason;
}

// The code of the close frame that the server sends after its answer to the upgrade; -1: none.
int close_code(client& peer) {
  peer.until("\r\n\r\n");
  const auto head = peer.exactly(4);
  if (head.size() < 4 || static_cast<unsigned char>(head[0]) != 0x88) return -1;
  return static_cast<unsigned char>(head[2]) * 256 + static_cast<unsigned char>(head[3]);
}

const std::string generate_slowly = "{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"slow\"}";

}  // namespace

TEST_CASE("websocket: framing faults close with their code at once") {
  const std::string mask(4, '\0');
  const auto raw = [&](const std::string& head, const std::string& payload) {
    return head + mask + payload;
  };
  struct row {
    std::string what;
    std::string bytes;
    int code;
  };
  const row rows[] = {
      {"not masked", std::string("\x81\x01x", 3), 1002},
      {"reserved bit 1", frame(0xC1, "x"), 1002},
      {"reserved bit 2", frame(0xA1, "x"), 1002},
      {"reserved bit 3", frame(0x91, "x"), 1002},
      {"opcode 3", frame(0x83, "x"), 1002},
      {"opcode 7", frame(0x87, "x"), 1002},
      {"opcode 11", frame(0x8B, "x"), 1002},
      {"opcode 15", frame(0x8F, "x"), 1002},
      {"continuation of nothing", frame(0x80, "x"), 1002},
      {"first part of nothing", frame(0x00, "x"), 1002},
      {"a new message inside another", frame(0x01, "x") + frame(0x81, "y"), 1002},
      {"ping in parts", frame(0x09, "x"), 1002},
      {"ping of 126 bytes", frame(0x89, std::string(126, 'x')), 1002},
      {"length 5 in 16 bits", raw(std::string("\x81\xFE\x00\x05", 4), "hello"), 1002},
      {"length 5 in 64 bits", raw(std::string("\x81\xFF\0\0\0\0\0\0\0\x05", 10), "hello"), 1002},
      {"length 2^63", raw(std::string("\x81\xFF\x80\0\0\0\0\0\0\0", 10), ""), 1002},
      {"length 2^63-1", raw(std::string("\x81\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 10), ""), 1009},
      {"invalid UTF-8 in an unfinished message", frame(0x01, "a\xC0\xAF"), 1007},
      {"a surrogate", frame(0x81, "\xED\xA0\x80"), 1007},
      {"a cut character at the end", frame(0x81, "\xE2\x82"), 1007},
      {"close of one byte", frame(0x88, "x"), 1002},
      {"close with code 999", frame(0x88, closing(999)), 1002},
      {"close with code 1005", frame(0x88, closing(1005)), 1002},
      {"close with code 1016", frame(0x88, closing(1016)), 1002},
      {"close with an invalid reason", frame(0x88, closing(1000, "\xff")), 1007},
  };
  running_server it;
  for (const auto& row : rows) {
    CAPTURE(row.what);
    client peer(it.http());
    peer.send(upgrade + row.bytes);
    CHECK(close_code(peer) == row.code);
    peer.finish_sending();
    CHECK(peer.ended());
  }
  CHECK_FALSE(it.engine.any_accepted());
}

TEST_CASE("websocket: pings of a peer that never reads end at the bound") {
  running_server it;
  client peer(it.http(), 4096);
  peer.send(upgrade);
  std::string pings;
  for (int i = 0; i < 1000; ++i) pings += frame(0x89, std::string(125, 'p'));
  for (int i = 0; i < 300; ++i) peer.send(pings);  // 39 MB, more than sockets hold
  CHECK(it.engine.metrics().websocket_errors.value() == 1);
  // What had been answered by then, and the close: not an answer to every ping.
  const auto all = peer.until("\x03\xf0");
  CHECK(has(all, "\x03\xf0"));
  CHECK(all.size() < 16u << 20);
}

TEST_CASE("websocket: a message that is not finished in time is closed") {
  net::options bounds;
  bounds.websocket_message_deadline = 50ms;
  running_server it(bounds);
  client peer(it.http());
  peer.send(upgrade + frame(0x01, "{\"op\":"));
  CHECK(close_code(peer) == 1008);
}

TEST_CASE("websocket: what follows a close is not read") {
  running_server it;
  client peer(it.http());
  peer.send(upgrade + frame(0x88, closing(1000)) + frame(0x81, generate_slowly));
  CHECK(close_code(peer) == 1000);
  peer.finish_sending();
  CHECK(peer.to_end() == "");
  CHECK_FALSE(it.engine.any_accepted());
}

TEST_CASE("websocket: a reset in mid-frame cancels") {
  running_server it;
  {
    client peer(it.http());
    peer.send(upgrade + frame(0x81, generate_slowly));
    peer.until("\"index\":0}");
    peer.send(frame(0x81, generate_slowly).substr(0, 12));
    peer.reset_at_end();
  }
  CHECK(it.engine.wait_idle());
  CHECK(it.engine.cancels == 1);
}

TEST_CASE("websocket: a client that never reads is cut") {
  running_server it;
  client peer(it.http(), 4096);
  peer.send(
      upgrade +
      frame(0x81,
            "{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"flood\",\"max_tokens\":1000000}"));
  REQUIRE(it.engine.wait_accepted(1));
  CHECK(it.engine.wait_idle());
  CHECK(it.engine.metrics().slow_readers.value() == 1);
}

TEST_CASE("tcp: blank lines of every kind are ignored") {
  running_server it;
  client peer(it.tcp());
  peer.send("\n\r\n \n\t\r\n\r\r\n\n{\"op\":\"tokenize\",\"id\":\"t\",\"text\":\"a\"}\r\n");
  // A lone CR is white space to JSON and a line of it holds no value.
  CHECK(has(peer.until("\n"), "{\"id\":null,\"event\":\"error\""));
  CHECK(has(peer.until("\n"), "{\"id\":\"t\",\"event\":\"done\""));
}
