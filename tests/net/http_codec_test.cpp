// SPDX-License-Identifier: Apache-2.0
#include "net/http_codec.hpp"

#include <doctest/doctest.h>

using foretoken::net::http_codec;
using progress = http_codec::progress;

namespace {

// Feeds `bytes` in pieces of `step`; the outcome of the first message.
progress read(http_codec& codec, const std::string& bytes, std::size_t step) {
  std::string in;
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    in += bytes.substr(at, step);
    auto got = codec.consume(in);
    if (got == progress::head) got = codec.consume(in);
    if (got != progress::more) return got;
  }
  return progress::more;
}

std::string get(const std::string& fields, const std::string& version = "HTTP/1.1") {
  return "GET / " + version + "\r\n" + fields + "\r\n";
}
std::string post(const std::string& fields, const std::string& body) {
  return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body;
}

}  // namespace

TEST_CASE("http_codec: malformed messages are refused, however they are split") {
  struct row {
    std::string bytes;
    int status;
  };
  std::string many = "Host: a\r\n";
  for (int i = 0; i < 100; ++i) many += "X: 1\r\n";
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  const std::vector<row> rows{
      {get("Host: a\r\nX: 1\r\n folded\r\n"), 400},
      {get("Host: a\r\nTransfer-Encoding:\r\n chunked\r\n"), 400},
      {get("Host : a\r\n"), 400},
      {"GET / HTTP/1.1\nHost: a\n\n", 400},
      {get("Host: a\r\nX: a\rb\r\n"), 400},
      {get(std::string("Host: a\r\nX: a\0b\r\n", 17)), 400},
      {get("Host: a\r\nno colon\r\n"), 400},
      {get(""), 400},
      {get("Host: a\r\nHost: a\r\n"), 400},
      {get("Host: a\r\n", "HTTP/9.9"), 505},
      {get("Host: a\r\n", "HTTP/1.10"), 400},
      {get("Host: a\r\n", "http/1.1"), 400},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"\x16\x03\x01\x02", 400},
      {get("Host: a\r\n" + chunked, "HTTP/1.0"), 400},
      {post(chunked + chunked, ""), 400},
      {post("Transfer-Encoding: gzip, chunked\r\n", ""), 400},
      {post("Transfer-Encoding: ,chunked\r\n", ""), 400},
      {post(chunked + "Content-Length: 3\r\n", ""), 400},
      {post("Content-Length: 3\r\nContent-Length: 3\r\n", ""), 400},
      {post("Content-Length: +3\r\n", ""), 400},
      {post("Content-Length: 0x3\r\n", ""), 400},
      {post("Content-Length: -1\r\n", ""), 400},
      {post("Content-Length: \r\n", ""), 400},
      {post("Content-Length: 3,3\r\n", ""), 400},
      {post("Content-Length: 99999999999999999999\r\n", ""), 400},
      {post("Content-Length: 1048577\r\n", ""), 413},
      {post(chunked, "3\r\nabcXX0\r\n\r\n"), 400},
      {post(chunked, "3\nabc\r\n0\r\n\r\n"), 400},
      {post(chunked, "+3\r\nabc\r\n0\r\n\r\n"), 400},
      {post(chunked, "0x3\r\nabc\r\n0\r\n\r\n"), 400},
      {post(chunked, "\r\nabc\r\n0\r\n\r\n"), 400},
      {post(chunked, "3 \r\nabc\r\n0\r\n\r\n"), 400},
      {post(chunked, "FFFFFFFFFFFFFFFFF\r\n"), 400},
      {post(chunked, "FFFFFFFF\r\n"), 413},
      {post(chunked, "3;" + std::string(300, 'x') + "\r\nabc\r\n0\r\n\r\n"), 400},
      {post(chunked, "0\r\nX: trailer\r\n\r\n"), 400},
      {"GET /" + std::string(8200, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
      {get("Host: a\r\nX: " + std::string(33000, 'a') + "\r\n"), 431},
      {get(many), 431},
  };
  const foretoken::net::options bounds;
  for (const auto& row : rows) {
    for (const std::size_t step : {row.bytes.size(), std::size_t{1}, std::size_t{7}}) {
      CAPTURE(row.bytes.substr(0, 200));
      CAPTURE(step);
      http_codec codec(bounds);
      CHECK(read(codec, row.bytes, step) == progress::failed);
      CHECK(codec.failure().status == row.status);
    }
  }
}

TEST_CASE("http_codec: chunked and counted bodies come out whole, split at every byte") {
  const foretoken::net::options bounds;
  const auto counted = post("Content-Length: 5\r\n", "hello");
  const auto chunked =
      post("Transfer-Encoding: chunked\r\n", "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n");
  for (const auto& bytes : {counted, chunked}) {
    for (std::size_t step = 1; step <= bytes.size(); ++step) {
      http_codec codec(bounds);
      CAPTURE(step);
      REQUIRE(read(codec, bytes, step) == progress::complete);
      CHECK(codec.request().body == "hello");
      CHECK(codec.request().keep_alive);
    }
  }
}

TEST_CASE("http_codec: one empty line before a request is skipped, however it is split") {
  const foretoken::net::options bounds;
  for (const std::size_t step : {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{99}}) {
    CAPTURE(step);
    http_codec codec(bounds);
    CHECK(read(codec, "\r\n" + get("Host: a\r\n"), step) == progress::complete);
    http_codec other(bounds);
    CHECK(read(other, "\r\n\r\n" + get("Host: a\r\n"), step) == progress::failed);
  }
}

TEST_CASE("http_codec: a second message after the first is left for the next call") {
  const foretoken::net::options bounds;
  http_codec codec(bounds);
  std::string in = post("Content-Length: 2\r\n", "ab") + get("Host: b\r\nConnection: close\r\n");
  CHECK(codec.consume(in) == progress::head);
  CHECK(codec.consume(in) == progress::complete);
  CHECK(codec.request().body == "ab");
  CHECK(codec.consume(in) == progress::head);
  CHECK(codec.consume(in) == progress::complete);
  CHECK(*codec.request().find("host") == "b");
  CHECK_FALSE(codec.request().keep_alive);
  CHECK(in.empty());
}

TEST_CASE("http_codec: chunks beyond the bound are refused") {
  foretoken::net::options bounds;
  bounds.chunks_max = 10;
  std::string body;
  for (int i = 0; i < 11; ++i) body += "1\r\na\r\n";
  http_codec codec(bounds);
  CHECK(read(codec, post("Transfer-Encoding: chunked\r\n", body), 4096) == progress::failed);
}
