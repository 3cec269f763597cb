// SPDX-License-Identifier: Apache-2.0
#include "net/tcp_lines.hpp"

#include <utility>

namespace foretoken::net {
namespace {

time_point now() {
  return std::chrono::steady_clock::now();
}

// A web page can make a browser send a request here whose body holds lines; neither Origin nor Host
// would be checked. What opens like HTTP is therefore not spoken to.
bool is_http_request_line(std::string_view line) {
  return line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0");
}

}  // namespace

tcp_lines::tcp_lines(loop_core& core, connection& peer)
    : core_(core),
      peer_(peer),
      messages_(core,
                core.metrics().tcp_errors,
                [this](std::string_view message) {
                  peer_.write(message);
                  peer_.write("\n");
                }),
      quiet_since_(now()) {}

void tcp_lines::on_data(std::string_view bytes) {
  in_ += bytes;
  line_pace_.add(bytes.size());
  take_lines();
}

void tcp_lines::take_lines() {
  const auto most = core_.bounds.tcp_line_bytes_max;
  std::size_t begin = 0;
  // A reader that does not read gets no more requests started for it.
  while (!peer_.closing() && !peer_.output_full()) {
    const auto end = in_.find('\n', begin + scanned_);
    const auto length = (end == std::string::npos ? in_.size() : end) - begin;
    if (length > most) {
      refuse_and_close(
          {errc::exhausted, "the line is longer than " + std::to_string(most) + " bytes"});
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
    take_line(line);
  }
  in_.erase(0, begin);
  const bool open = !in_.empty();
  if (open && (begin != 0 || !line_open_)) line_pace_.begin(now(), in_.size());
  line_open_ = open;
  peer_.read_more(!peer_.output_full());
}

void tcp_lines::take_line(std::string_view line) {
  quiet_since_ = now();
  if (std::exchange(first_line_, false) && is_http_request_line(line)) {
    return refuse_and_close(invalid("", "JSON lines are spoken here, not HTTP"));
  }
  if (line.find_first_not_of(" \t") != std::string_view::npos) messages_.on_message(line);
}

void tcp_lines::refuse_and_close(const error& why) {
  core_.metrics().tcp_errors.add();
  messages_.refuse(why);
  messages_.abandon_all();  // nobody will read the answers
  peer_.close_after_flush();
}

void tcp_lines::on_eof() {
  ended_ = true;
  if (!in_.empty()) in_ += '\n';  // a last line without its end is a line
}

void tcp_lines::on_settle() {
  if (!in_.empty() || !ended_) take_lines();
  if (ended_ && in_.empty() && messages_.running() == 0) peer_.close_after_flush();
}

void tcp_lines::on_tick(time_point at) {
  if (ended_) return;
  if (peer_.output_full()) {
    // We do not read, so the peer cannot be late.
    line_pace_.begin(at, 0);
    quiet_since_ = at;
  } else if (line_open_) {
    if (line_pace_.too_slow(at, core_.bounds.tcp_line_stall)) {
      refuse_and_close({errc::deadline_exceeded, "the line did not arrive in time"});
    }
  } else if (messages_.running() != 0) {
    quiet_since_ = at;
  } else if (at - quiet_since_ > core_.bounds.idle_timeout) {
    peer_.close_after_flush();
  }
}

}  // namespace foretoken::net
