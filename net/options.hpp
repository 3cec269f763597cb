// SPDX-License-Identifier: Apache-2.0
#pragma once
// Every bound of the edge. A peer that goes beyond one gets a clear refusal, never silence.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace foretoken::net {

struct options {
  std::string http = "127.0.0.1:8080";       // HTTP and WebSocket; port 0 = any free; empty = off
  std::string tcp = "127.0.0.1:8081";        // JSON lines; port 0 = any free; empty = off
  bool allow_unauthenticated = false;        // must be true to bind anything but loopback
  std::vector<std::string> allowed_origins;  // exact Origin values beside our own address
  std::vector<std::string> allowed_hosts;    // exact Host values beside our own address

  int connections_max = 8192;           // open sockets of all protocols; more get 503 or a close
  int streams_per_connection_max = 64;  // requests in flight on one WebSocket or TCP connection
  int prompts_max = 64;                 // prompts of one completions request
  int choices_max = 16;                 // n

  std::uint64_t request_line_bytes_max = 8u << 10;    // beyond: 414
  std::uint64_t header_bytes_max = 32u << 10;         // beyond: 431
  int header_count_max = 100;                         // beyond: 431
  std::uint64_t body_bytes_max = 1u << 20;            // beyond: 413
  int chunks_max = 4096;                              // chunks of one body; beyond: 400
  int chunk_extension_bytes_max = 256;                // beyond: 400
  std::chrono::milliseconds header_deadline{10'000};  // a started header must end by then: 408
  std::chrono::milliseconds body_stall{
      5'000};  // a body must gain a kilobyte per second after this: 408
  std::chrono::milliseconds idle_timeout{60'000};  // HTTP and TCP connections without a request

  std::uint64_t websocket_message_bytes_max = 1u << 20;  // beyond: close 1009
  int websocket_fragments_max = 1024;  // frames of one message; beyond: close 1008
  int websocket_pongs_max = 64;        // unsent answers to pings; beyond: close 1008
  std::chrono::milliseconds websocket_message_deadline{
      10'000};  // a started message must end by then
  std::chrono::milliseconds websocket_ping{
      20'000};                                  // silence after which we ping; twice that closes
  std::uint64_t tcp_line_bytes_max = 1u << 20;  // beyond: an error event, then close
  std::chrono::milliseconds tcp_line_stall{
      5'000};  // a started line must gain a kilobyte per second after this

  // Pending output of a connection. Beyond soft, no new request of it is begun until the peer has
  // read. Beyond hard, at least twice soft, the peer is cut and its requests cancelled: it does not
  // read while its streams go on. Single messages larger than soft (a whole answer) do not count
  // for hard: what was asked for bounds them, slow_reader bounds how long they are kept.
  std::uint64_t output_soft_bytes = 256u << 10;
  std::uint64_t output_hard_bytes = 1u << 20;
  std::chrono::milliseconds slow_reader{10'000};  // pending output without progress: cut as well
  std::chrono::milliseconds linger{2'000};        // wait for the peer to close after a final answer
  std::chrono::milliseconds stop_flush{2'000};    // stop() waits this long for output to leave

  std::chrono::milliseconds stay_awake{0};  // the loop, after it did something

  int json_depth_max = 32;
  int json_values_max = 262'144;  // values in one document (a token-id prompt is one each)
};

}  // namespace foretoken::net
