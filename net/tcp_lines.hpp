// SPDX-License-Identifier: Apache-2.0
#pragma once
// JSON messages, one a line, on a plain TCP socket. End-of-file ends reading only: pending answers
// are still sent; a reset cancels.

#include "net/connection.hpp"
#include "net/json_protocol.hpp"

namespace foretoken::net {

class tcp_lines final : public protocol {
 public:
  tcp_lines(loop_core& core, connection& peer);
  void on_data(std::string_view bytes) override;
  void on_eof() override;
  void on_settle() override;
  void on_tick(time_point now) override;
  void on_stop() override {}
  gauge& open_gauge() noexcept override { return core_.metrics().connections_tcp; }

 private:
  void take_lines();

  loop_core& core_;
  connection& peer_;
  json_protocol messages_;
  std::string in_;
  std::size_t scanned_ = 0;
  bool ended_ = false;
};

}  // namespace foretoken::net
