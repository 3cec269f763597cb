// SPDX-License-Identifier: Apache-2.0
// Spoiled bytes of peers. Beyond "no crash": what the edge makes of a stream must not depend on how
// the stream was cut into reads.
#include <set>

#include "net/frame_screen.hpp"
#include "net/http_codec.hpp"
#include "net/request_json.hpp"
#include "tests/fuzz/mutator.hpp"
#include "tests/net/server_fixture.hpp"

using namespace foretoken;
using namespace foretoken::test;

namespace {

const std::string chunked =
    "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    "b\r\n{\"prompt\":\"\r\n2;x=y\r\na\"\r\n1\r\n}\r\n0\r\n\r\n";

// Every message that the codec finds, and the failure that ends it, as one text.
std::string story(const std::vector<std::string_view>& pieces) {
  using progress = net::http_codec::progress;
  const net::options bounds;
  net::http_codec codec(bounds);
  std::string out, in;
  for (const auto piece : pieces) {
    in += piece;
    for (auto got = codec.consume(in); got != progress::more; got = codec.consume(in)) {
      if (got == progress::failed) return out + "failed " + std::to_string(codec.failure().status);
      if (got != progress::complete) continue;
      const auto& made = codec.request();
      out += made.method + ' ' + made.target + ' ' + std::to_string(made.fields.size()) + ' ' +
             made.body + '\n';
    }
  }
  return out;
}

const std::vector<std::string> messages{
    R"({"op":"generate","id":"a","prompt":"ab","max_tokens":3,"temperature":0.5,"stop":["x"],"n":2})",
    R"({"op":"chat","id":7,"messages":[{"role":"user","content":[{"type":"text","text":"h\u00e9"}]}]})",
    R"({"op":"tokenize","id":"t","text":"a","add_special_tokens":false})",
    R"({"op":"generate","id":"b","prompt":[1,2,3],"logit_bias":{"5":-1.5},"seed":18446744073709551615})",
    R"({"op":"cancel","id":"a"})"};
const std::vector<std::string> json_words{"\"",
                                          "\\",
                                          "\\u0000",
                                          "\\ud800",
                                          "[",
                                          "]",
                                          "{",
                                          "}",
                                          "[[[[[[[[[[[[[[[[[",
                                          ",",
                                          ":",
                                          "null",
                                          "true",
                                          "1e309",
                                          "-0",
                                          "9223372036854775808",
                                          "NaN",
                                          "\n",
                                          "\r",
                                          "\"id\":",
                                          "\"op\":",
                                          "\"prompt\":",
                                          "\"n\":16",
                                          "\"stream\":true",
                                          "\xff",
                                          "\xEF\xBB\xBF"};

}  // namespace

TEST_CASE("fuzz: the HTTP codec sees the same messages however they are cut") {
  const std::vector<std::string> goods{get("/healthz") + get("/metrics", "Connection: close\r\n"),
                                       post("/tokenize", "{\"text\":\"a\"}") + get("/v1/models"),
                                       chunked + get("/healthz"), upgrade};
  mutator random(fuzz_seed(),
                 {"\r\n", "\r", "\n", " ", ":", "Host: a\r\n", "Content-Length: 3\r\n", "0\r\n\r\n",
                  "Transfer-Encoding: chunked\r\n", "HTTP/1.0", "\t", ";", "+", "FFFFFFFF"});
  std::uint64_t whole = 0;
  const auto rounds = fuzz_rounds(10'000);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const auto bytes = random.spoil(goods[random.below(goods.size())]);
    const auto before = allocated_bytes();
    const auto at_once = bytes.empty() ? std::string() : story({bytes});
    CHECK(allocated_bytes() - before < (4u << 20));
    const auto in_pieces = story(random.split(bytes));
    if (at_once != in_pieces) {
      FAIL("seed " << fuzz_seed() << " round " << round << ": [" << bytes << "] gives [" << at_once
                   << "] and in pieces [" << in_pieces << "]");
    }
    if (!at_once.starts_with("failed")) ++whole;
  }
  CHECK(whole > 0);
  CHECK(whole < rounds);
}

TEST_CASE("fuzz: JSON of requests, in every dialect") {
  mutator random(fuzz_seed(), json_words);
  std::uint64_t accepted = 0;
  const auto rounds = fuzz_rounds(20'000);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const auto text = random.spoil(messages[random.below(messages.size())]);
    const auto before = allocated_bytes();
    for (const auto how : {net::dialect::completions, net::dialect::chat, net::dialect::generate_op,
                           net::dialect::chat_op}) {
      auto parsed = net::parse_json(text, {});
      if (!parsed) break;
      if (const auto asked = net::parse_generate(std::move(*parsed), how, {})) ++accepted;
    }
    CHECK(allocated_bytes() - before < (1u << 20) + 8000 * text.size());
  }
  CHECK(accepted > 0);
}

TEST_CASE("fuzz: frame headers are found however the stream is cut") {
  mutator random(fuzz_seed(),
                 {frame(0x81, "x"), frame(0x01, std::string(200, 'y')), std::string("\x89\x00", 2),
                  std::string("\x81\xFF\0\0\0\0\0\0\0\x05", 10)});
  const auto headers = [](const std::vector<std::string_view>& pieces) {
    net::frame_screen screen;
    std::string out;
    for (const auto piece : pieces) {
      screen.pass(piece, [&](const net::frame_header& seen) {
        out += std::to_string(seen.opcode) + (seen.last ? '.' : '-') +
               std::to_string(seen.payload_bytes) + ' ';
      });
    }
    return out;
  };
  for (std::uint64_t round = 0; round < fuzz_rounds(20'000); ++round) {
    const auto bytes =
        random.spoil(frame(0x81, "hello") + frame(0x09, "") + frame(0x80, std::string(300, 'z')));
    REQUIRE(headers({bytes}) == headers(random.split(bytes)));
  }
}

TEST_CASE("fuzz: the server outlives spoiled streams and nothing stays behind") {
  running_server it;
  mutator random(fuzz_seed(), json_words);
  // What ends a request: no stream of a vanished client may run on.
  const auto rounds = std::min<std::uint64_t>(fuzz_rounds(400), 20'000);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    std::string bytes;
    const bool lines = random.below(2) == 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const auto& message = messages[random.below(messages.size())];
      bytes += lines ? message + '\n' : frame(0x81, message);
    }
    client peer(lines ? it.tcp() : it.http());
    REQUIRE(peer.connected());
    bytes = random.spoil(bytes);
    if (!lines) bytes.insert(0, upgrade);
    for (const auto piece : random.split(bytes)) {
      if (!peer.send(piece)) break;
    }
    if (random.below(4) == 0) peer.reset_at_end();
    peer.finish_sending();
    if (random.below(2) == 0) CHECK(peer.ended());
  }
  CHECK(it.engine.wait_idle());
  client last(it.http());
  last.send(get("/healthz"));
  CHECK(has(last.answer(), "200 OK"));
}
