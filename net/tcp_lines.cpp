// SPDX-License-Identifier: Apache-2.0
#include "net/tcp_lines.hpp"

namespace foretoken::net {

tcp_lines::tcp_lines(loop_core& core, connection& peer)
    : core_(core),
      peer_(peer),
      messages_(core, core.metrics().tcp_errors, [this](std::string_view message) {
        peer_.write(message);
        peer_.write("\n");
      }) {}

void tcp_lines::on_data(std::string_view bytes) {
  in_ += bytes;
  take_lines();
}

void tcp_lines::take_lines() {
  const auto most = core_.bounds.tcp_line_bytes_max;
  std::size_t begin = 0;
  while (!peer_.closing()) {
    // A reader that does not read gets no more requests started for it.
    if (peer_.pending_bytes() > core_.bounds.output_soft_bytes) break;
    const auto end = in_.find('\n', begin + scanned_);
    const auto length = (end == std::string::npos ? in_.size() : end) - begin;
    if (length > most) {
      core_.metrics().tcp_errors.add();
      messages_.refuse(
          {errc::exhausted, "the line is longer than " + std::to_string(most) + " bytes"});
      peer_.close_after_flush();
      break;
    }
    if (end == std::string::npos) {
      scanned_ = length;
      break;
    }
    scanned_ = 0;
    std::string_view line(in_.data() + begin, length);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") != std::string_view::npos) messages_.on_message(line);
  }
  in_.erase(0, begin);
  peer_.read_more(peer_.pending_bytes() <= core_.bounds.output_soft_bytes);
}

void tcp_lines::on_eof() {
  ended_ = true;
  if (!in_.empty()) in_ += '\n';  // a last line without its end is a line
}

void tcp_lines::on_settle() {
  if (!in_.empty() || !ended_) take_lines();
  if (ended_ && in_.empty() && messages_.running() == 0) peer_.close_after_flush();
}

void tcp_lines::on_tick(time_point) {}

}  // namespace foretoken::net
