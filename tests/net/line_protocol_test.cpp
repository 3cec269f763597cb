// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <thread>

#include "tests/net/server_fixture.hpp"

using namespace foretoken;
using namespace foretoken::test;

namespace {

const std::string tokenize = "{\"op\":\"tokenize\",\"id\":\"t\",\"text\":\"a\"}";
const std::string tokenized = "{\"id\":\"t\",\"event\":\"done\",\"tokens\":[1,97]}";

}  // namespace

TEST_CASE("tcp: streams end with done, ids come back as given") {
  running_server it;
  client peer(it.tcp());
  peer.send("{\"op\":\"generate\",\"id\":7,\"prompt\":\"ab\",\"n\":2}\r\n\r\n  \n");
  CHECK(peer.until("\n") == "{\"id\":7,\"event\":\"token\",\"text\":\"a\",\"index\":0}\n");
  CHECK(has(peer.until("\n"), "\"index\":1"));
  peer.until("\n");
  peer.until("\n");
  const auto done = peer.until("\n");
  CHECK(has(done,
            "{\"id\":7,\"event\":\"done\",\"finish_reason\":\"stop\",\"choices\":[{\"index\":0,"
            "\"finish_reason\":\"stop\"},{\"index\":1,"));
  CHECK(has(done, "\"usage\":{\"prompt_tokens\":5"));
  peer.send(
      "{\"op\":\"chat\",\"id\":\"c\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n" +
      tokenize + "\n");
  std::string rest;  // the two answers may come in either order
  for (int i = 0; i < 3; ++i) rest += peer.until("\n");
  CHECK(has(rest, "{\"id\":\"c\",\"event\":\"done\""));
  CHECK(has(rest, tokenized));
}

TEST_CASE("tcp: a malformed line gets an error with a null id and the connection stays") {
  running_server it;
  client peer(it.tcp());
  const std::string rows[] = {"{",
                              "[]",
                              "5",
                              "{\"op\":\"generate\",\"prompt\":\"a\"}",
                              "\xEF\xBB\xBF{}",
                              std::string("{\"id\":\"a\0\"}", 11),
                              "{\"id\":\"\xff\"}",
                              "{\"id\":\"\\ud800\"}",
                              "{\"id\":\"a\",\"id\":\"b\"}",
                              "{\"id\":\"a\",}",
                              "{\"id\":NaN}",
                              "{\"id\":1}{\"id\":2}",
                              "{\"id\":1.5,\"op\":\"cancel\"}",
                              "{\"id\":\"\r\"}",
                              "{\"id\":" + std::string(40, '[') + std::string(40, ']') + "}"};
  for (const auto& row : rows) {
    CAPTURE(row);
    peer.send(row + "\n");
    CHECK(has(peer.until("\n"), "{\"id\":null,\"event\":\"error\",\"error\":{"));
  }
  peer.send("{\"id\":\"a\",\"op\":\"dance\"}\n");
  CHECK(has(peer.until("\n"), "{\"id\":\"a\",\"event\":\"error\""));
  peer.send(tokenize + "\n");
  CHECK(peer.until("\n") == tokenized + "\n");
}

TEST_CASE("tcp: an id in use is refused, cancel ends it, an unknown id is ignored") {
  running_server it;
  client peer(it.tcp());
  peer.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"slow\"}\n");
  peer.until("\n");
  peer.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"x\"}\n");
  CHECK(has(peer.until("\n"), "\"code\":\"id_in_use\""));
  peer.send("{\"op\":\"cancel\",\"id\":\"b\"}\n{\"op\":\"cancel\",\"id\":\"a\"}\n");
  CHECK(has(peer.until("\n"), "\"finish_reason\":\"cancelled\""));
}

TEST_CASE("tcp: end-of-file ends reading only, a reset cancels") {
  running_server it;
  client peer(it.tcp());
  peer.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"abc\"}");
  peer.finish_sending();
  CHECK(has(peer.to_end(), "\"event\":\"done\""));
  CHECK(it.engine.cancels == 0);
  {
    client gone(it.tcp());
    gone.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"flood\",\"max_tokens\":100000}\n");
    gone.until("\n");
  }
  CHECK(it.engine.wait_idle());
}

TEST_CASE("tcp: bounds on lines and streams") {
  net::options bounds;
  bounds.tcp_line_bytes_max = 100;
  bounds.streams_per_connection_max = 1;
  bounds.linger = std::chrono::milliseconds(50);  // the client stays: the server has to leave
  running_server it(bounds);
  client peer(it.tcp());
  peer.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"slow\"}\n");
  peer.until("\n");
  peer.send(tokenize + "\n");
  CHECK(has(peer.until("\n"), "\"code\":\"exhausted\""));
  peer.send(std::string(101, ' '));
  CHECK(has(peer.until("\n"), "\"id\":null"));
  CHECK(peer.ended());
  CHECK(it.engine.wait_idle());
}

TEST_CASE("tcp: a line that began and does not come ends in an error and a close") {
  net::options bounds;
  bounds.tcp_line_stall = std::chrono::milliseconds(50);
  bounds.linger = std::chrono::milliseconds(50);
  running_server it(bounds);
  client peer(it.tcp());
  peer.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"slow\"}\n" + tokenize.substr(0, 10));
  CHECK(has(peer.until("\n"), "\"event\":\"token\""));
  CHECK(has(peer.until("\n"), "\"code\":\"deadline_exceeded\""));
  CHECK(it.engine.wait_idle());
  CHECK(peer.ended());
}

TEST_CASE("tcp: an idle connection is closed, one with a running request is not") {
  net::options bounds;
  bounds.idle_timeout = std::chrono::milliseconds(50);
  bounds.linger = std::chrono::milliseconds(50);
  running_server it(bounds);
  client busy(it.tcp());
  busy.send("{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"slow\"}\n");
  busy.until("\n");
  client idle(it.tcp());
  CHECK(idle.ended());
  busy.send("{\"op\":\"cancel\",\"id\":\"a\"}\n");
  CHECK(has(busy.until("\n"), "\"finish_reason\":\"cancelled\""));
  CHECK(busy.ended());
}

TEST_CASE("tcp: what opens like an HTTP request is not spoken to") {
  net::options bounds;
  bounds.linger = std::chrono::milliseconds(50);
  running_server it(bounds);
  client peer(it.tcp());
  peer.send(post("/", tokenize + "\n"));
  CHECK(has(peer.until("\n"), "{\"id\":null,\"event\":\"error\",\"error\":{"));
  CHECK(peer.to_end().empty());
  client other(it.tcp());  // only a first line can be one
  other.send(tokenize + "\n");
  CHECK(other.until("\n") == tokenized + "\n");
  other.send("GET / HTTP/1.1\n" + tokenize + "\n");
  other.until("\n");
  CHECK(other.until("\n") == tokenized + "\n");
}

TEST_CASE("websocket: the upgrade is checked") {
  running_server it;
  const auto without = [](const std::string& field, const std::string& instead) {
    auto text = upgrade;
    const auto at = text.find(field);
    return text.replace(at, text.find("\r\n", at) + 2 - at, instead);
  };
  const std::pair<std::string, const char*> rows[] = {
      {without("Sec-WebSocket-Version", "Sec-WebSocket-Version: 12\r\n"), " 426 "},
      {without("Sec-WebSocket-Key", ""), " 400 "},
      {without("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ=\r\n"), " 400 "},
      {without("Upgrade: websocket", "Origin: http://evil.example\r\nUpgrade: websocket\r\n"),
       " 403 "},
  };
  for (const auto& [bytes, status] : rows) {
    CAPTURE(bytes);
    client peer(it.http());
    peer.send(bytes);
    CHECK(has(peer.answer(), status));
  }
  client peer(it.http());
  peer.send(upgrade + frame(0x81, tokenize));  // the first frame comes with the request
  CHECK(has(peer.until("\r\n\r\n"), "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
  CHECK(has(peer.until("]}"), tokenized));
}

TEST_CASE("websocket: fragments, a ping between them, and any split give the same answer") {
  running_server it;
  const auto bytes = upgrade + frame(0x01, tokenize.substr(0, 10)) + frame(0x89, "p") +
                     frame(0x80, tokenize.substr(10));
  client peer(it.http());
  for (const char c : bytes) peer.send(std::string(1, c));
  peer.until("\r\n\r\n");
  const auto got = peer.until("]}");
  CHECK(has(got, std::string("\x8a\x01p", 3)));
  CHECK(has(got, tokenized));
}

TEST_CASE("websocket: broken frames close with their code") {
  net::options bounds;
  bounds.websocket_message_bytes_max = 1000;
  bounds.websocket_fragments_max = 10;
  running_server it(bounds);
  std::string fragments = frame(0x01, "a");
  for (int i = 0; i < 20; ++i) fragments += frame(0x00, "");
  std::string pings;
  for (int i = 0; i < 200; ++i) pings += frame(0x89, "");
  struct row {
    std::string bytes;
    int code;
  };
  const row rows[] = {
      {std::string("\x81\x01x", 3), 1002},
      {frame(0xC1, "x"), 1002},
      {frame(0x83, "x"), 1002},
      {frame(0x80, "x"), 1002},
      {frame(0x81, "\xff"), 1007},
      {frame(0x82, "x"), 1003},
      {frame(0x81, std::string(1001, 'x')), 1009},
      {frame(0x01, std::string(600, 'x')) + frame(0x80, std::string(600, 'x')), 1009},
      {fragments, 1008},
      {pings, 1008},
      {frame(0x88, std::string("\x03\xed", 2)), 1002},  // 1005 may not be sent
      {frame(0x88, "x"), 1002},
      {frame(0x89, std::string(126, 'x')), 1002},
      {frame(0x88, std::string("\x03\xe8", 2)), 1000},
  };
  for (const auto& row : rows) {
    CAPTURE(row.code);
    CAPTURE(row.bytes.substr(0, 8));
    client peer(it.http());
    peer.send(upgrade + row.bytes);
    peer.until("\r\n\r\n");
    auto head = peer.exactly(4);
    while (head.starts_with(std::string("\x8a\x00", 2))) head = head.substr(2) + peer.exactly(2);
    REQUIRE(head.size() == 4);
    CHECK(static_cast<unsigned char>(head[0]) == 0x88);
    CHECK(static_cast<unsigned char>(head[2]) * 256 + static_cast<unsigned char>(head[3]) ==
          row.code);
    peer.finish_sending();
    CHECK(peer.ended());
  }
}

TEST_CASE("websocket: a vanished or closed peer's requests are cancelled") {
  running_server it;
  for (const bool polite : {false, true}) {
    client peer(it.http());
    peer.send(upgrade + frame(0x81, "{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"slow\"}"));
    peer.until("\"index\":0}");
    if (polite) peer.send(frame(0x88, std::string("\x03\xe8", 2)));
    if (!polite) peer.finish_sending();
    CHECK(it.engine.wait_idle());
  }
  CHECK(it.engine.cancels == 2);
}

TEST_CASE("websocket: a message that began and does not come closes with 1008") {
  net::options bounds;
  bounds.websocket_message_deadline = std::chrono::milliseconds(50);
  running_server it(bounds);
  client peer(it.http());
  peer.send(upgrade + frame(0x01, "{"));
  peer.until("\r\n\r\n");
  const auto head = peer.exactly(4);
  CHECK(has(head, "\x03\xf0"));
  peer.finish_sending();
  CHECK(peer.ended());
}

TEST_CASE("websocket: silence is pinged, then cut; a peer that answers stays") {
  net::options bounds;
  bounds.websocket_ping = std::chrono::milliseconds(150);
  running_server it(bounds);
  client silent(it.http()), lively(it.http());
  for (auto* peer : {&silent, &lively}) {
    peer->send(upgrade);
    peer->until("\r\n\r\n");
  }
  const std::string ping("\x89\x00", 2);
  for (int i = 0; i < 3; ++i) {
    REQUIRE(lively.exactly(2) == ping);
    lively.send(frame(0x8A, ""));
  }
  CHECK(silent.exactly(2) == ping);
  CHECK(silent.ended());
  lively.send(frame(0x81, tokenize));
  CHECK(has(lively.until("]}"), tokenized));
}

TEST_CASE("websocket: stop says 1001") {
  running_server it;
  client peer(it.http());
  peer.send(upgrade);
  peer.until("\r\n\r\n");
  std::thread stopping([&] { it.server->stop(); });
  const auto head = peer.exactly(4);
  CHECK(head == std::string("\x88\x18\x03\xe9", 4));
  peer.finish_sending();
  CHECK(peer.ended());
  stopping.join();
}
