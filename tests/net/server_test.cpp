// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <ctime>
#include <thread>
#include <vector>

#include "tests/net/server_fixture.hpp"

using namespace foretoken;
using namespace foretoken::test;

TEST_CASE("server: the plain endpoints answer on one kept connection, in order") {
  running_server it;
  client peer(it.http());
  peer.send(get("/healthz") + get("/readyz") + get("/metrics") + get("/v1/models") +
            get("/v1/models/fake") +
            post("/tokenize", "{\"text\":\"ab\",\"add_special_tokens\":false}") +
            post("/detokenize", "{\"tokens\":[97,98]}"));
  CHECK(has(peer.answer(), "200 OK"));
  CHECK(has(peer.answer(), "{\"status\":\"ok\"}"));
  CHECK(has(peer.answer(), "version=0.0.4"));
  CHECK(has(peer.answer(), "\"data\":[{\"id\":\"fake\""));
  CHECK(has(peer.answer(), "\"id\":\"fake\""));
  CHECK(has(peer.answer(), "{\"tokens\":[97,98]}"));
  CHECK(has(peer.answer(), "{\"text\":\"ab\"}"));
}

TEST_CASE("server: refusals carry their status") {
  running_server it;
  struct row {
    std::string bytes;
    const char* status;
  };
  const row rows[] = {
      {get("/nothing"), " 404 "},
      {get("/../../etc/passwd"), " 404 "},
      {get("/%2e%2e%2fetc"), " 404 "},
      {get("/v1/models/other"), " 404 "},
      {get("/v1/completions"), " 405 "},
      // Its answer has a length and no body: only the close ends it.
      {"HEAD /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", " 405 "},
      {post("/metrics", "{}"), " 405 "},
      {"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", " 403 "},
      {"GET /healthz HTTP/1.1\r\nHost: localhost:1\r\n\r\n", " 403 "},
      {get("/healthz", "Origin: http://evil.example\r\n"), " 403 "},
      {get("/healthz", "Origin: null\r\n"), " 403 "},
      {post("/tokenize", "{}", "Content-Encoding: gzip\r\n"), " 415 "},
      {"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: "
       "2\r\n\r\n{}",
       " 415 "},
      {post("/tokenize", "{}", "Expect: tea\r\n"), " 417 "},
      {post("/tokenize", "{"), " 400 "},
      {post("/v1/completions", "{\"prompt\":\"full\"}"), " 429 "},
      {post("/v1/completions", "{\"prompt\":\"fail\"}"), " 503 "},
      {post("/v1/completions", "{\"prompt\":\"fail\",\"stream\":true}"), " 503 "},
      {post("/v1/completions", "{\"prompt\":\"\"}"), "\"param\":\"prompt\""},
      {get("/v1/stream"), " 426 "},
      {"GET / HTTP/1.1\nHost: localhost\n\n", " 400 "},
      {"\x16\x03\x01", " 400 "},
      {"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n", " 413 "},
  };
  for (const auto& row : rows) {
    CAPTURE(row.bytes);
    client peer(it.http());
    peer.send(row.bytes);
    CHECK(has(peer.answer(), row.status));
  }
}

TEST_CASE("server: HEAD is answered as GET without its body") {
  running_server it;
  for (const char* path : {"/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/fake",
                           "/v1/models/other", "/v1/stream"}) {
    CAPTURE(path);
    client one(it.http()), other(it.http());
    one.send(get(path));
    auto wanted = one.answer();
    wanted.resize(wanted.find("\r\n\r\n") + 4);
    const std::string head = "HEAD" + get(path, "Connection: keep-alive\r\n").substr(3);
    other.send(head + get("/healthz", "Connection: close\r\n"));
    const auto all = other.to_end();
    CHECK(all.starts_with(wanted + "HTTP/1.1 200 OK"));
    CHECK(has(all, "{\"status\":\"ok\"}"));
  }
  client peer(it.http());  // an error after it has its body again
  peer.send("HEAD" + get("/healthz").substr(3) + "broken\r\n");
  CHECK(has(peer.to_end(), "\"code\":\"invalid_argument\""));
}

TEST_CASE("server: a model is found by its name, percent-encoded as clients do") {
  running_server it;
  it.engine.info.name = "A model/1%";
  for (const auto& [path, status] : {std::pair{"/v1/models/A%20model%2F1%25", " 200 "},
                                     {"/v1/models/A%20model%2f1%25", " 200 "},
                                     {"/v1/models/A%20model%2F1%", " 200 "},
                                     {"/v1/models/A%20model", " 404 "},
                                     {"/v1/models/%zz", " 404 "},
                                     {"/v1/models/", " 404 "}}) {
    CAPTURE(path);
    client peer(it.http());
    peer.send(get(path));
    CHECK(has(peer.answer(), status));
  }
}

TEST_CASE("server: an error's message names the parameter once") {
  running_server it;
  client peer(it.http());
  peer.send(post("/detokenize", "{\"tokens\":[500]}") + post("/tokenize", "{}"));
  CHECK(has(peer.answer(), "\"message\":\"tokens: no such id\""));
  CHECK(has(peer.answer(), "\"message\":\"text is required\""));
}

TEST_CASE("server: what may be tried again says when") {
  running_server it;
  for (const char* prompt : {"full", "fail"}) {
    CAPTURE(prompt);
    client peer(it.http());
    peer.send(post("/v1/completions", "{\"prompt\":\"" + std::string(prompt) + "\"}"));
    CHECK(has(peer.answer(), "\r\nRetry-After: 1\r\n"));
  }
  it.engine.is_ready = false;
  client peer(it.http());
  peer.send(post("/v1/completions", "{\"prompt\":\"full\"}") + get("/readyz"));
  for (int i = 0; i < 2; ++i) {
    const auto answer = peer.answer();
    CHECK(has(answer, " 503 "));
    CHECK(has(answer, "\r\nRetry-After: 1\r\n"));
  }
}

TEST_CASE("server: the address that it listens on is its own Host and Origin") {
  fake_engine engine;
  net::options chosen;
  chosen.http = "127.0.0.2:0";
  chosen.tcp = "";
  const auto made = net::server::start(engine, chosen);
  REQUIRE(made);
  const auto own = (*made)->http_address();
  client peer(own);
  peer.send("GET /healthz HTTP/1.1\r\nHost: " + own + "\r\nOrigin: http://" + own + "\r\n\r\n");
  CHECK(has(peer.answer(), " 200 "));
  peer.send("GET /healthz HTTP/1.1\r\nHost: 127.0.0.3\r\n\r\n");
  CHECK(has(peer.answer(), " 403 "));
}

TEST_CASE("server: a framing error ends the connection after one 400") {
  running_server it;
  client peer(it.http());
  peer.send("GET / HTTP/1.1\r\nbroken\r\n\r\n" + get("/healthz"));
  const auto all = peer.to_end();
  CHECK(count(all, "HTTP/1.1 ") == 1);
  CHECK(has(all, "Connection: close"));
}

TEST_CASE("server: a completion whole, with choices and prompts in order") {
  running_server it;
  client peer(it.http());
  peer.send(post("/v1/completions", "{\"prompt\":[\"ab\",\"cd\"],\"n\":2,\"logprobs\":1}"));
  const auto all = peer.answer();
  CHECK(has(all, "{\"index\":0,\"text\":\"ab\""));
  CHECK(has(all, "{\"index\":1,\"text\":\"ab\""));
  CHECK(has(all, "{\"index\":3,\"text\":\"cd\""));
  CHECK(has(all,
            "\"token_logprobs\":[-0.5,-0.5],\"top_logprobs\":[{\"a\":-0.5},{\"b\":-0.5}],\"text_"
            "offset\":[3,3]"));
  CHECK(has(all, "\"prompt_tokens\":10,\"completion_tokens\":4,\"total_tokens\":14"));
  CHECK(has(all, "\"cached_tokens\":4"));
}

TEST_CASE("server: server-sent events have the shape clients expect") {
  running_server it;
  client peer(it.http());
  peer.send(
      post("/v1/chat/completions",
           "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}],"
           "\"stream\":true,"
           "\"stream_options\":{\"include_usage\":true},\"logprobs\":true,\"top_logprobs\":1}"));
  const auto all = peer.until("0\r\n\r\n");
  CHECK(has(all, "Content-Type: text/event-stream"));
  const auto role = all.find("\"delta\":{\"role\":\"assistant\"");
  const auto first = all.find("\"delta\":{\"content\":\"h\"}");
  const auto end = all.find("\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"");
  const auto usage = all.find("\"choices\":[],\"usage\":{");
  CHECK(role < first);
  CHECK(first < end);
  CHECK(end < usage);
  CHECK(usage < all.find("data: [DONE]\n\n"));
  CHECK(has(all,
            "{\"content\":[{\"token\":\"h\",\"logprob\":-0.5,\"bytes\":[104],\"top_logprobs\":[{"
            "\"token\":\"h\""));
  peer.send(get("/healthz"));  // the connection is kept
  CHECK(has(peer.answer(), "200 OK"));
}

TEST_CASE("server: an error in mid-stream is a data line and ends the stream") {
  running_server it;
  client peer(it.http());
  peer.send(post("/v1/completions", "{\"prompt\":\"late\",\"stream\":true}"));
  const auto all = peer.until("0\r\n\r\n");
  CHECK(has(all, "\"text\":\"l\""));
  CHECK(has(all, "data: {\"error\":{\"message\":\"the device is gone\""));
  CHECK_FALSE(has(all, "[DONE]"));
}

TEST_CASE("server: a request split at every byte is the same request") {
  running_server it;
  client peer(it.http());
  const auto bytes = post("/tokenize", "{\"text\":\"a\"}");
  for (const char c : bytes) peer.send(std::string(1, c));
  CHECK(has(peer.answer(), "{\"tokens\":[1,97]}"));
}

TEST_CASE("server: 100-continue is sent when the body is awaited") {
  running_server it;
  client peer(it.http());
  peer.send(
      "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: "
      "12\r\n\r\n");
  CHECK(peer.until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
  peer.send("{\"text\":\"a\"}");
  CHECK(has(peer.answer(), "[1,97]"));
}

TEST_CASE("server: a vanished HTTP client's request is cancelled") {
  running_server it;
  for (const bool stream : {false, true}) {
    CAPTURE(stream);
    {
      client peer(it.http());
      peer.send(post("/v1/completions",
                     stream ? "{\"prompt\":\"slow\",\"stream\":true}" : "{\"prompt\":\"slow\"}"));
      REQUIRE(it.engine.wait_accepted(stream ? 2 : 1));
      if (stream) CHECK(has(peer.until("\n\n"), "200 OK"));
    }
    CHECK(it.engine.wait_idle());
  }
  CHECK(it.engine.cancels == 2);
}

TEST_CASE("server: a reader that does not read is cut and counted") {
  running_server it;
  client peer(it.http(), 4096);
  peer.send(
      post("/v1/completions", "{\"prompt\":\"flood\",\"stream\":true,\"max_tokens\":1000000}"));
  REQUIRE(it.engine.wait_accepted(1));
  CHECK(it.engine.wait_idle());
  CHECK(it.engine.metrics().slow_readers.value() == 1);
}

TEST_CASE("server: a loop that stays awake answers, and sleeps when nobody asks") {
  net::options chosen;
  chosen.stay_awake = std::chrono::milliseconds(5);
  running_server it(chosen);
  client peer(it.http());
  for (int i = 0; i < 20; ++i) {
    peer.send(post("/v1/completions", "{\"prompt\":\"hello\",\"max_tokens\":5}"));
    CHECK(has(peer.answer(), "200 OK"));
    std::this_thread::sleep_for(std::chrono::milliseconds(i));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  CHECK(std::clock() - before < CLOCKS_PER_SEC / 20);  // of all threads
}

TEST_CASE("server: slow headers get 408") {
  net::options bounds;
  bounds.header_deadline = std::chrono::milliseconds(50);
  running_server it(bounds);
  client peer(it.http());
  peer.send("GET /healthz HT");
  CHECK(has(peer.to_end(), " 408 "));
}

TEST_CASE("server: slow bodies get 408") {
  net::options bounds;
  bounds.body_stall = std::chrono::milliseconds(50);
  running_server it(bounds);
  client peer(it.http());
  const auto bytes = post("/tokenize", "{\"text\":\"a\"}");
  peer.send(bytes.substr(0, bytes.size() - 5));
  CHECK(has(peer.to_end(), " 408 "));
}

TEST_CASE("server: an idle connection is closed, counted from its last answer") {
  net::options bounds;
  bounds.idle_timeout = std::chrono::milliseconds(300);
  bounds.linger = std::chrono::milliseconds(50);
  running_server it(bounds);
  client peer(it.http());
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    peer.send(get("/healthz"));
    REQUIRE(has(peer.answer(), "200 OK"));
  }
  CHECK(peer.ended());
}

TEST_CASE("server: connections beyond the bound get 503") {
  net::options bounds;
  bounds.connections_max = 1;
  running_server it(bounds);
  client first(it.http());
  first.send(get("/healthz"));
  CHECK(has(first.answer(), "200 OK"));
  client second(it.http());
  CHECK(has(second.to_end(), " 503 "));
}

TEST_CASE("server: 64 clients stream at once") {
  running_server it;
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int i = 0; i < 64; ++i) {
    clients.emplace_back([&it, &good] {
      client peer(it.http());
      peer.send(post("/v1/completions", "{\"prompt\":\"abcdefgh\",\"stream\":true}"));
      const auto all = peer.until("0\r\n\r\n");
      if (count(all, "\"text\":\"") == 9 && has(all, "[DONE]")) ++good;
    });
  }
  for (auto& one : clients) one.join();
  CHECK(good == 64);
}

TEST_CASE("server: addresses that cannot be bound are named") {
  fake_engine engine;
  running_server it;
  struct row {
    std::string http, tcp;
    const char* field;
  };
  const row rows[] = {{"nonsense", "", "net.http"},
                      {"127.0.0.1:70000", "", "net.http"},
                      {"0.0.0.0:0", "", "net.allow_unauthenticated"},
                      {"", "example.org:1", "net.tcp"},
                      {it.http(), "", "net.http"}};
  for (const auto& row : rows) {
    CAPTURE(row.http);
    net::options chosen;
    chosen.http = row.http;
    chosen.tcp = row.tcp;
    const auto made = net::server::start(engine, chosen);
    REQUIRE_FALSE(made);
    CHECK(made.error().field == row.field);
  }
}
