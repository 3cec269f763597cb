// SPDX-License-Identifier: Apache-2.0
// Entries 52 to 58 and 70 to 72 of the catalogue that need a connection.
#include <thread>

#include "tests/net/server_fixture.hpp"

using namespace foretoken;
using namespace foretoken::test;
using namespace std::chrono_literals;

TEST_CASE("http: what follows Connection: close is not answered") {
  running_server it;
  client peer(it.http());
  peer.send(get("/healthz", "Connection: close\r\n") + get("/healthz"));
  const auto all = peer.to_end();
  CHECK(count(all, "HTTP/1.1 200") == 1);
  CHECK(count(all, "HTTP/1.1 ") == 1);
}

TEST_CASE("http: a header that drips in gets 408") {
  net::options bounds;
  bounds.header_deadline = 50ms;
  running_server it(bounds);
  client peer(it.http());
  const auto request = get("/healthz", "X: " + std::string(4000, 'a') + "\r\n");
  // Each byte is progress; the deadline is for the whole header.
  for (const char c : request) {
    if (!peer.send(std::string(1, c))) break;
    std::this_thread::sleep_for(2ms);
    if (peer.readable()) break;
  }
  const auto all = peer.to_end();
  CHECK(has(all, "HTTP/1.1 408 "));
  CHECK_FALSE(has(all, " 200 "));
}

TEST_CASE("http: a body that ends early is no request") {
  running_server it;
  for (const bool chunked : {false, true}) {
    CAPTURE(chunked);
    client peer(it.http());
    const std::string half = "{\"prompt\":\"abc\",";
    peer.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" +
              (chunked
                   ? "Transfer-Encoding: chunked\r\n\r\n10\r\n" + half
                   : "Content-Length: " + std::to_string(half.size() + 20) + "\r\n\r\n" + half));
    peer.finish_sending();
    CHECK_FALSE(has(peer.to_end(), " 200 "));
    CHECK(peer.ended());
  }
  CHECK(it.engine.wait_idle());
  CHECK_FALSE(it.engine.any_accepted());
}

TEST_CASE("http: half a million chunks end at the bound") {
  running_server it;
  client peer(it.http());
  peer.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
  std::string chunks;
  for (int i = 0; i < 1000; ++i) chunks += "1\r\na\r\n";
  for (int i = 0; i < 500 && !peer.readable(); ++i) {
    if (!peer.send(chunks)) break;
  }
  CHECK(has(peer.until("\r\n\r\n"), "HTTP/1.1 400 "));
  CHECK_FALSE(it.engine.any_accepted());
}

TEST_CASE("http: a refused request is not told to continue") {
  running_server it;
  const std::string rows[] = {
      "POST /nothing HTTP/1.1\r\nHost: localhost\r\n",
      "POST /tokenize HTTP/1.1\r\nHost: evil.example\r\n",
      "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n",
  };
  for (const auto& row : rows) {
    CAPTURE(row);
    client peer(it.http());
    peer.send(row + "Expect: 100-continue\r\nContent-Length: 12\r\n\r\n");
    const auto all = peer.to_end();
    CHECK_FALSE(has(all, " 100 "));
    CHECK(has(all, "HTTP/1.1 4"));
    CHECK(has(all, "Connection: close"));
  }
}

TEST_CASE("http: bytes of other protocols get one refusal and the close") {
  running_server it;
  const std::string hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
  const std::string rows[] = {hello + std::string(512, '\x7f'),
                              "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                              std::string("\0", 1),
                              "\xf7",
                              "SSH-2.0-x\r\n",
                              "{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"x\"}\n"};
  for (const auto& row : rows) {
    CAPTURE(row.substr(0, 16));
    client peer(it.http());
    peer.send(row);
    const auto all = peer.to_end();
    CHECK(count(all, "\r\n\r\n") == 1);
    CHECK((all.starts_with("HTTP/1.1 400 ") || all.starts_with("HTTP/1.1 505 ")));
    CHECK(peer.ended());
  }
  CHECK_FALSE(it.engine.any_accepted());
}

TEST_CASE("http: a connection that says nothing is closed") {
  net::options bounds;
  bounds.idle_timeout = bounds.header_deadline = 50ms;
  running_server it(bounds);
  client silent(it.http());
  CHECK(silent.to_end() == "");
  CHECK(silent.ended());
  client one_byte(it.http());
  one_byte.send("G");
  CHECK(has(one_byte.to_end(), "HTTP/1.1 408 "));
}

TEST_CASE("http: paths outside the table are 404") {
  running_server it;
  for (const char* path :
       {"/../../etc/passwd", "/%2e%2e%2fetc%2fpasswd", "//etc/passwd", "/\\..\\etc\\passwd", "/%00",
        "/healthz%00", "/healthz/", "/./healthz", "//healthz", "/v1/models/../../etc/passwd"}) {
    CAPTURE(path);
    client peer(it.http());
    peer.send(get(path));
    const auto all = peer.answer();
    CHECK(has(all, "HTTP/1.1 404 "));
    CHECK(has(all, "\"code\":\"not_found\""));
  }
}

TEST_CASE("http: requests beyond the bounds of JSON name the parameter") {
  running_server it;
  const auto many = [](const std::string& item, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += (i == 0 ? "" : ",") + item;
    return out;
  };
  std::string biases;
  for (int i = 0; i < 60'000; ++i) biases += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":101";
  struct row {
    std::string more;
    const char* status;
    const char* param;
  };
  const row rows[] = {
      {"\"prompt\":[" + many("1", 270'000) + "]", "400", "prompt"},
      {"\"prompt\":[" + many("10000", 200'000) + "]", "413", "null"},
      {"\"prompt\":\"a\",\"stop\":[" + many("\"x\"", 1000) + "]", "400", "stop"},
      {"\"prompt\":\"a\",\"logit_bias\":{\"5\":NaN}", "400", "logit_bias"},
      {"\"prompt\":\"a\",\"logit_bias\":{" + biases + "}", "400", "logit_bias"},
      {"\"prompt\":\"a\",\"logit_bias\":{\"5\":1,\"5\":2}", "400", "logit_bias"},
      {"\"prompt\":\"a\",\"n\":1000000", "400", "n"},
      {"\"prompt\":[" + many("\"a\"", 65) + "]", "400", "prompt"},
      {"\"prompt\":\"" + std::string(1u << 20, 'a') + '"', "413", "null"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.more.substr(0, 60));
    client peer(it.http());
    peer.send(post("/v1/completions", "{" + row.more + "}"));
    const auto all = peer.answer();
    const std::string param =
        std::string(row.param) == "null" ? "null" : '"' + std::string(row.param) + '"';
    CHECK(has(all, std::string("HTTP/1.1 ") + row.status));
    CHECK(has(all, "\"param\":" + param));
  }
  CHECK_FALSE(it.engine.any_accepted());
}

TEST_CASE("http: a malformed traceparent is ignored") {
  running_server it;
  for (const char* value : {"junk", "00-0-0-0", "ff-00000000000000000000000000000000-0-01", ""}) {
    CAPTURE(value);
    client peer(it.http());
    peer.send(get("/healthz", std::string("traceparent: ") + value + "\r\n"));
    CHECK(has(peer.answer(), "HTTP/1.1 200 "));
  }
}
