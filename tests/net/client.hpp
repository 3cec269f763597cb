// SPDX-License-Identifier: Apache-2.0
#pragma once
// A blocking socket with a receive timeout: what a hostile or plain client sends and sees, byte for
// byte.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

namespace foretoken::test {

class client {
 public:
  explicit client(const std::string& address, int receive_buffer = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer != 0)
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    const timeval limit{10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    inet_pton(AF_INET, address.substr(0, address.rfind(':')).c_str(), &to.sin_addr);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  }
  client(const client&) = delete;
  client& operator=(const client&) = delete;
  ~client() { ::close(fd_); }

  bool connected() const { return connected_; }
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  // The peer will see a reset, not an end of file.
  void reset_at_end() {
    const linger at_once{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  // Something has come (or the peer has closed) that was not read yet.
  bool readable() const {
    pollfd one{fd_, POLLIN, 0};
    return ::poll(&one, 1, 0) > 0;
  }
  void finish_sending() { ::shutdown(fd_, SHUT_WR); }

  // Up to and with `end`; what came when the peer closed or was silent for ten seconds.
  std::string until(std::string_view end) {
    while (true) {
      const auto found = in_.find(end);
      if (found != std::string::npos) return take(found + end.size());
      if (!more()) return take(in_.size());
    }
  }
  std::string exactly(std::size_t count) {
    while (in_.size() < count && more()) {
    }
    return take(std::min(count, in_.size()));
  }
  std::string to_end() {
    while (more()) {
    }
    return take(in_.size());
  }
  // The peer closed: nothing more comes. False when it was only silent.
  bool ended() {
    while (more()) {
    }
    return ended_;
  }
  // A whole HTTP answer with Content-Length.
  std::string answer() {
    auto out = until("\r\n\r\n");
    const auto at = out.find("Content-Length: ");
    if (at != std::string::npos) out += exactly(std::stoul(out.substr(at + 16)));
    return out;
  }

 private:
  bool more() {
    char buffer[65536];
    const auto got = ::recv(fd_, buffer, sizeof buffer, 0);
    if (got > 0) in_.append(buffer, static_cast<std::size_t>(got));
    if (got == 0 || (got < 0 && errno == ECONNRESET)) ended_ = true;
    return got > 0;
  }
  std::string take(std::size_t count) {
    auto out = in_.substr(0, count);
    in_.erase(0, count);
    return out;
  }
  int fd_ = -1;
  bool connected_ = false, ended_ = false;
  std::string in_;
};

}  // namespace foretoken::test
