// SPDX-License-Identifier: Apache-2.0
#pragma once
// JSON messages, one a line, on a plain TCP socket. End-of-file ends reading only: pending answers
// are still sent; a reset cancels. A line that began must keep coming, and a connection without
// lines and running requests is closed after a while.

#include "net/connection.hpp"
#include "net/json_protocol.hpp"
#include "net/pace.hpp"

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
  void take_line(std::string_view line);
  void refuse_and_close(const error& why);

  loop_core& core_;
  connection& peer_;
  json_protocol messages_;
  std::string in_;
  std::size_t scanned_ = 0;
  bool ended_ = false, first_line_ = true, line_open_ = false;
  pace line_pace_;            // of the line that began
  time_point quiet_since_{};  // no line, nothing running
};

}  // namespace foretoken::net
