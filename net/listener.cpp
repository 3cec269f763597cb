// SPDX-License-Identifier: Apache-2.0
#include "net/listener.hpp"

#include <utility>

#include "base/log.hpp"
#include "net/address.hpp"

namespace foretoken::net {

listener::listener(loop_core& core, first_protocol make, std::string refusal)
    : core_(core), make_(std::move(make)), refusal_(std::move(refusal)) {}

status listener::open(const std::string& address, const char* field) {
  auto wanted = parse_address(address, field);
  if (!wanted) return std::move(wanted).error();
  loopback_ = wanted->loopback;
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
    failed = uv_tcp_bind(&socket_, reinterpret_cast<sockaddr*>(&wanted->where), 0);
  }
  if (failed == 0)
    failed = uv_listen(reinterpret_cast<uv_stream_t*>(&socket_), 1024, on_connection);
  sockaddr_storage real{};
  int length = sizeof real;
  if (failed == 0)
    failed = uv_tcp_getsockname(&socket_, reinterpret_cast<sockaddr*>(&real), &length);
  if (failed != 0) {
    const bool passing = failed == UV_EADDRINUSE || failed == UV_EADDRNOTAVAIL ||
                         failed == UV_EMFILE || failed == UV_ENFILE || failed == UV_ENOMEM ||
                         failed == UV_ENOBUFS;
    return error{passing ? errc::exhausted : errc::invalid_argument,
                 "cannot listen on " + address + ": " + uv_strerror(failed), field};
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
