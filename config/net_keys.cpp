// SPDX-License-Identifier: Apache-2.0
#include "config/bind.hpp"

namespace foretoken::config {
namespace {

void add_door_keys(std::vector<key>& out) {
  out.push_back(text("net.http",
                     "HOST:PORT of HTTP and WebSocket; port 0 = any free one; empty = off.",
                     FORETOKEN_MEMBER(net.http)));
  out.push_back(text("net.tcp",
                     "HOST:PORT of JSON lines over TCP; port 0 = any free one; empty = off.",
                     FORETOKEN_MEMBER(net.tcp)));
  out.push_back(boolean("net.allow_unauthenticated",
                        "Must be true to listen on anything but loopback: there are no keys yet.",
                        FORETOKEN_MEMBER(net.allow_unauthenticated)));
  out.push_back(text_list("net.allowed_origins",
                          "Origin values accepted beside the server's own address.",
                          FORETOKEN_MEMBER(net.allowed_origins)));
  out.push_back(text_list("net.allowed_hosts",
                          "Host values accepted beside the server's own address.",
                          FORETOKEN_MEMBER(net.allowed_hosts)));
  out.push_back(integer("net.connections_max", 1, 1 << 20, "Open sockets of all protocols.",
                        FORETOKEN_MEMBER(net.connections_max)));
  out.push_back(integer("net.streams_per_connection_max", 1, 1 << 20,
                        "Requests in flight on one WebSocket or TCP connection.",
                        FORETOKEN_MEMBER(net.streams_per_connection_max)));
  out.push_back(integer("net.prompts_max", 1, 65536, "Prompts of one completions request.",
                        FORETOKEN_MEMBER(net.prompts_max)));
}

void add_http_keys(std::vector<key>& out) {
  out.push_back(bytes("net.request_line_bytes_max", 64, 1 << 20, "HTTP request line; beyond: 414.",
                      FORETOKEN_MEMBER(net.request_line_bytes_max)));
  out.push_back(bytes("net.header_bytes_max", 256, 1 << 24, "HTTP header block; beyond: 431.",
                      FORETOKEN_MEMBER(net.header_bytes_max)));
  out.push_back(integer("net.header_count_max", 1, 10000, "HTTP header lines; beyond: 431.",
                        FORETOKEN_MEMBER(net.header_count_max)));
  out.push_back(bytes("net.body_bytes_max", 1, 1 << 30, "HTTP body; beyond: 413.",
                      FORETOKEN_MEMBER(net.body_bytes_max)));
  out.push_back(integer("net.chunks_max", 1, 1 << 24, "Chunks of one HTTP body; beyond: 400.",
                        FORETOKEN_MEMBER(net.chunks_max)));
  out.push_back(integer("net.chunk_extension_bytes_max", 0, 65536,
                        "Extension of one chunk; beyond: 400.",
                        FORETOKEN_MEMBER(net.chunk_extension_bytes_max)));
  out.push_back(duration("net.header_deadline", 1, 3'600'000,
                         "An HTTP header that began must end by then; beyond: 408.",
                         FORETOKEN_MEMBER(net.header_deadline)));
  out.push_back(duration("net.body_stall", 1, 3'600'000,
                         "After this long a body must gain a kilobyte a second; else: 408.",
                         FORETOKEN_MEMBER(net.body_stall)));
  out.push_back(duration("net.idle_timeout", 1, 86'400'000,
                         "HTTP and TCP connections without a request are closed after this long.",
                         FORETOKEN_MEMBER(net.idle_timeout)));
}

void add_stream_keys(std::vector<key>& out) {
  out.push_back(bytes("net.websocket_message_bytes_max", 1, 1 << 30,
                      "One WebSocket message; beyond: close 1009.",
                      FORETOKEN_MEMBER(net.websocket_message_bytes_max)));
  out.push_back(integer("net.websocket_fragments_max", 1, 1 << 20,
                        "Frames of one WebSocket message; beyond: close 1008.",
                        FORETOKEN_MEMBER(net.websocket_fragments_max)));
  out.push_back(integer("net.websocket_pongs_max", 1, 65536,
                        "Unsent answers to pings; beyond: close 1008.",
                        FORETOKEN_MEMBER(net.websocket_pongs_max)));
  out.push_back(duration("net.websocket_message_deadline", 1, 3'600'000,
                         "A WebSocket message that began must end by then.",
                         FORETOKEN_MEMBER(net.websocket_message_deadline)));
  out.push_back(duration("net.websocket_ping", 1, 3'600'000,
                         "Silence after which a ping is sent; twice that closes.",
                         FORETOKEN_MEMBER(net.websocket_ping)));
  out.push_back(bytes("net.tcp_line_bytes_max", 1, 1 << 30,
                      "One line over TCP; beyond: an error event, then close.",
                      FORETOKEN_MEMBER(net.tcp_line_bytes_max)));
  out.push_back(duration("net.tcp_line_stall", 1, 3'600'000,
                         "After this long a line over TCP that began must gain a kilobyte a "
                         "second; else: an error event, then close.",
                         FORETOKEN_MEMBER(net.tcp_line_stall)));
}

void add_output_keys(std::vector<key>& out) {
  out.push_back(bytes("net.output_soft_bytes", 1, 1 << 30,
                      "Pending output of a connection beyond which no new request of it is begun.",
                      FORETOKEN_MEMBER(net.output_soft_bytes)));
  out.push_back(bytes("net.output_hard_bytes", 1, 1 << 30,
                      "Pending output beyond this cuts the peer and cancels its requests; at least "
                      "twice output_soft_bytes. Single messages above that one do not count.",
                      FORETOKEN_MEMBER(net.output_hard_bytes)));
  out.push_back(duration("net.slow_reader", 1, 3'600'000,
                         "Pending output without progress for this long: cut as well.",
                         FORETOKEN_MEMBER(net.slow_reader)));
  out.push_back(duration("net.linger", 0, 60'000,
                         "Wait for the peer to close after a final answer.",
                         FORETOKEN_MEMBER(net.linger)));
  out.push_back(duration("net.stop_flush", 0, 60'000,
                         "At the end, wait this long for output to leave.",
                         FORETOKEN_MEMBER(net.stop_flush)));
  out.push_back(integer("net.json_depth_max", 1, 1000, "Nesting of a JSON document.",
                        FORETOKEN_MEMBER(net.json_depth_max)));
  out.push_back(integer("net.json_values_max", 1, 1 << 26,
                        "Values in one JSON document; a token-id prompt is one each.",
                        FORETOKEN_MEMBER(net.json_values_max)));
}

}  // namespace

void add_net_keys(std::vector<key>& out) {
  add_door_keys(out);
  add_http_keys(out);
  add_stream_keys(out);
  add_output_keys(out);
}

}  // namespace foretoken::config
