// SPDX-License-Identifier: Apache-2.0
#pragma once
// A listening socket: binds, accepts within the bound, hands each connection its first protocol.

#include <uv.h>

#include <functional>
#include <memory>
#include <string>

#include "net/connection.hpp"

namespace foretoken::net {

class listener {
 public:
  using first_protocol = std::function<std::unique_ptr<protocol>(connection&)>;
  // `refusal` is written to connections beyond the bound.
  listener(loop_core& core, first_protocol make, std::string refusal);

  // `address` is HOST:PORT or [IPV6]:PORT. Errors name `field`.
  status open(const std::string& address, const char* field);
  void close();
  const std::string& address() const noexcept { return address_; }  // the real one
  bool loopback() const noexcept { return loopback_; }

 private:
  static void on_connection(uv_stream_t* stream, int failed);

  loop_core& core_;
  first_protocol make_;
  std::string refusal_, address_;
  uv_tcp_t socket_{};
  bool open_ = false, loopback_ = true;
};

}  // namespace foretoken::net
