// SPDX-License-Identifier: Apache-2.0
#pragma once
// A server with every door open on free loopback ports over a scripted engine, and the bytes that
// its clients send.

#include <doctest/doctest.h>

#include <memory>
#include <string>

#include "net/server.hpp"
#include "tests/net/client.hpp"
#include "tests/net/fake_engine.hpp"

namespace foretoken::test {

struct running_server {
  explicit running_server(net::options chosen = {}) {
    chosen.http = chosen.tcp = "127.0.0.1:0";
    auto made = net::server::start(engine, chosen);
    REQUIRE(made);
    server = std::move(*made);
  }
  std::string http() const { return server->http_address(); }
  std::string tcp() const { return server->tcp_address(); }
  fake_engine engine;
  std::unique_ptr<net::server> server;  // stops before the engine goes
};

inline std::string get(const std::string& path, const std::string& more = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + more + "\r\n";
}
inline std::string post(const std::string& path,
                        const std::string& body,
                        const std::string& more = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
         more + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
inline std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}
inline bool has(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

inline const std::string upgrade =
    "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

// A masked frame; the mask is zero, so the payload stands as it is.
inline std::string frame(int first, const std::string& payload) {
  std::string out(1, static_cast<char>(first));
  if (payload.size() < 126) {
    out += static_cast<char>(0x80 | payload.size());
  } else {
    out += static_cast<char>(0x80 | 126);
    out += static_cast<char>(payload.size() >> 8);
    out += static_cast<char>(payload.size() & 255);
  }
  return out + std::string(4, '\0') + payload;
}

}  // namespace foretoken::test
