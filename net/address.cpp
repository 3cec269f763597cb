// SPDX-License-Identifier: Apache-2.0
#include "net/address.hpp"

#include <arpa/inet.h>
#include <uv.h>

#include <charconv>

namespace foretoken::net {

result<listen_address> parse_address(const std::string& text, const char* field) {
  const auto bad = invalid(field, "'" + text + "' is not HOST:PORT");
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return bad;
  std::string host = text.substr(0, colon);
  int port = -1;
  const auto* end = text.data() + text.size();
  const auto read = std::from_chars(text.data() + colon + 1, end, port);
  if (read.ec != std::errc{} || read.ptr != end || port < 0 || port > 65535) return bad;
  if (host == "localhost") host = "127.0.0.1";
  listen_address out;
  auto* four = reinterpret_cast<sockaddr_in*>(&out.where);
  auto* six = reinterpret_cast<sockaddr_in6*>(&out.where);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    if (uv_ip6_addr(host.substr(1, host.size() - 2).c_str(), port, six) != 0) return bad;
    out.loopback = IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
  } else {
    if (uv_ip4_addr(host.c_str(), port, four) != 0) return bad;
    out.loopback = (ntohl(four->sin_addr.s_addr) >> 24) == 127;
  }
  return out;
}

}  // namespace foretoken::net
