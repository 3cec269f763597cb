// SPDX-License-Identifier: Apache-2.0
#include "net/listener.hpp"

#include <arpa/inet.h>

#include <charconv>
#include <cstring>
#include <utility>

#include "base/log.hpp"

namespace foretoken::net {

listener::listener(loop_core& core, first_protocol make, std::string refusal)
    : core_(core), make_(std::move(make)), refusal_(std::move(refusal)) {}

status listener::parse(const std::string& address, const char* field, sockaddr_storage& out) {
  const auto colon = address.rfind(':');
  const auto bad = invalid(field, "'" + address + "' is not HOST:PORT");
  if (colon == std::string::npos) return bad;
  std::string host = address.substr(0, colon);
  int port = -1;
  const auto* end = address.data() + address.size();
  const auto read = std::from_chars(address.data() + colon + 1, end, port);
  if (read.ec != std::errc{} || read.ptr != end || port < 0 || port > 65535) return bad;
  if (host == "localhost") host = "127.0.0.1";
  auto* four = reinterpret_cast<sockaddr_in*>(&out);
  auto* six = reinterpret_cast<sockaddr_in6*>(&out);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    if (uv_ip6_addr(host.substr(1, host.size() - 2).c_str(), port, six) != 0) return bad;
    loopback_ = IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
  } else {
    if (uv_ip4_addr(host.c_str(), port, four) != 0) return bad;
    loopback_ = (ntohl(four->sin_addr.s_addr) >> 24) == 127;
  }
  return {};
}

status listener::open(const std::string& address, const char* field) {
  sockaddr_storage wanted{};
  FORETOKEN_TRY(parse(address, field, wanted));
  if (!loopback_ && !core_.bounds.allow_unauthenticated) {
    return invalid("net.allow_unauthenticated",
                   address +
                       " can be reached from other machines and there are no keys yet; "
                       "set net.allow_unauthenticated = true to accept that");
  }
  int failed = uv_tcp_init(&core_.loop, &socket_);
  if (failed == 0) {
    open_ = true;
    socket_.data = this;
    failed = uv_tcp_bind(&socket_, reinterpret_cast<sockaddr*>(&wanted), 0);
  }
  if (failed == 0)
    failed = uv_listen(reinterpret_cast<uv_stream_t*>(&socket_), 1024, on_connection);
  sockaddr_storage real{};
  int length = sizeof real;
  if (failed == 0)
    failed = uv_tcp_getsockname(&socket_, reinterpret_cast<sockaddr*>(&real), &length);
  if (failed != 0) {
    return invalid(field, "cannot listen on " + address + ": " + uv_strerror(failed));
  }
  const auto port = real.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&real)->sin6_port
                                               : reinterpret_cast<sockaddr_in*>(&real)->sin_port;
  address_ = address.substr(0, address.rfind(':') + 1) + std::to_string(ntohs(port));
  return {};
}

void listener::close() {
  if (std::exchange(open_, false)) uv_close(reinterpret_cast<uv_handle_t*>(&socket_), nullptr);
}

void listener::on_connection(uv_stream_t* stream, int failed) {
  auto& self = *static_cast<listener*>(stream->data);
  if (failed != 0) {
    // Out of descriptors: libuv takes and drops the waiting peer with its spare one, so this does
    // not spin.
    log::warn("net", "a connection could not be accepted: {}", uv_strerror(failed));
    return;
  }
  auto& core = self.core_;
  const bool full =
      core.connections.size() >= static_cast<std::size_t>(core.bounds.connections_max);
  auto* peer = new connection(core);  // freed by its close callback
  if (!peer->accept(*stream)) return;
  if (full) {
    core.metrics().rejected_overload.add();
    peer->refuse(self.refusal_);
  } else {
    peer->start(self.make_(*peer));
  }
  core.settle();
}

}  // namespace foretoken::net
