// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where to listen, from its text.

#include <sys/socket.h>

#include <string>

#include "base/result.hpp"

namespace foretoken::net {

struct listen_address {
  sockaddr_storage where{};
  bool loopback = true;
};
// HOST:PORT or [IPV6]:PORT; a host is an address or "localhost". Errors name `field`.
result<listen_address> parse_address(const std::string& text, const char* field);

}  // namespace foretoken::net
