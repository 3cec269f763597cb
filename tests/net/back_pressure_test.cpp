// SPDX-License-Identifier: Apache-2.0
// Output that waits for its reader: bounded, and no reason to cut a peer that reads.
#include <thread>

#include "tests/net/server_fixture.hpp"

using namespace foretoken;
using namespace foretoken::test;

namespace {

// Bounds so low that a few hundred answers reach them.
net::options narrow() {
  net::options bounds;
  bounds.output_soft_bytes = 4096;
  bounds.output_hard_bytes = 16384;
  return bounds;
}

}  // namespace

TEST_CASE("back-pressure: any number of pipelined requests is answered in bounded memory") {
  running_server it(narrow());
  // Smaller than the soft bound, and in all far more than the sockets' buffers hold.
  it.engine.page = std::string(3000, 'x');
  constexpr std::size_t requests = 5000;
  client peer(it.http(), 4096);
  std::thread writer([&] {
    std::string all;
    for (std::size_t i = 0; i < requests; ++i) all += get("/metrics");
    peer.send(all);
  });
  std::size_t answered = 0;
  while (answered < requests && has(peer.answer(), "200 OK")) ++answered;
  writer.join();
  CHECK(answered == requests);
  CHECK(it.engine.metrics().slow_readers.value() == 0);
}

TEST_CASE("back-pressure: requests pipelined behind the bound go on when all output left at once") {
  running_server it(narrow());
  // The kernel takes this much without a wait: no callback tells that there is room again.
  it.engine.page = std::string(3000, 'x');
  std::string all;
  for (int i = 0; i < 20; ++i) all += get("/metrics");
  client peer(it.http());
  peer.send(all);
  for (int i = 0; i < 20; ++i) CHECK(has(peer.answer(), "200 OK"));
}

TEST_CASE("back-pressure: a half-closed peer still gets the answers of what it pipelined") {
  running_server it(narrow());
  it.engine.page = std::string(3000, 'x');
  std::string all;
  for (int i = 0; i < 50; ++i) all += get("/metrics");
  client peer(it.http(), 4096);
  peer.send(all);
  peer.finish_sending();
  CHECK(count(peer.to_end(), "200 OK") == 50);
}

TEST_CASE("back-pressure: one whole answer may be larger than the hard bound, on every door") {
  running_server it(narrow());
  it.engine.page = std::string(20'000'000, 'x');
  client peer(it.http(), 4096);
  for (int i = 0; i < 3; ++i) {
    peer.send(get("/metrics"));
    CHECK(peer.answer().size() > 20'000'000);
  }
  const auto ask = [](int id) {
    return "{\"op\":\"tokenize\",\"id\":" + std::to_string(id) + ",\"text\":\"" +
           std::string(60'000, 'a') + "\"}";
  };
  client lines(it.tcp(), 4096);
  lines.send(ask(1) + "\n" + ask(2) + "\n");
  CHECK(lines.until("\n").size() > 180'000);
  CHECK(lines.until("\n").size() > 180'000);
  client socket(it.http(), 4096);
  socket.send(upgrade + frame(0x81, ask(1)));
  socket.until("\r\n\r\n");
  CHECK(socket.until("]}").size() > 180'000);
  CHECK(it.engine.metrics().slow_readers.value() == 0);
}

TEST_CASE("back-pressure: lines behind the bound go on when all output left at once") {
  running_server it(narrow());
  std::string all;
  for (int i = 0; i < 200; ++i) all += "{\"op\":\"dance\",\"id\":" + std::to_string(i) + "}\n";
  client peer(it.tcp());
  peer.send(all);
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    REQUIRE(has(peer.until("\n"), "{\"id\":" + std::to_string(i) + ","));
  }
  client socket(it.http());
  std::string frames;
  for (int i = 0; i < 200; ++i)
    frames += frame(0x81, "{\"op\":\"dance\",\"id\":" + std::to_string(i) + "}");
  socket.send(upgrade + frames);
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    REQUIRE(has(socket.until("\"retryable\":false}}"), "{\"id\":" + std::to_string(i) + ","));
  }
  socket.send(frame(0x81, "{\"op\":\"dance\",\"id\":\"last\"}"));
  CHECK(has(socket.until("\"retryable\":false}}"), "{\"id\":\"last\","));
}

TEST_CASE("back-pressure: a reader that does not read is cut on every door") {
  running_server it;
  const std::string flood = "\"prompt\":\"flood\",\"max_tokens\":1000000";
  const std::string op = "{\"op\":\"generate\",\"id\":1," + flood + "}";
  const std::pair<std::string, std::string> rows[] = {
      {it.http(), post("/v1/completions", "{\"stream\":true," + flood + "}")},
      {it.http(), upgrade + frame(0x81, op)},
      {it.tcp(), op + "\n"}};
  std::uint64_t cut = 0;
  for (const auto& [door, bytes] : rows) {
    CAPTURE(bytes);
    client peer(door, 4096);
    peer.send(bytes);
    REQUIRE(it.engine.wait_accepted(++cut));
    CHECK(it.engine.wait_idle());
    CHECK(it.engine.metrics().slow_readers.value() == cut);
  }
}
