// SPDX-License-Identifier: Apache-2.0
#pragma once
// One HTTP connection: requests in order, one answer at a time, keep-alive, upgrade to WebSocket.

#include <memory>
#include <string>
#include <string_view>

#include "net/connection.hpp"
#include "net/http_codec.hpp"
#include "net/pace.hpp"

namespace foretoken::net {

// An answer that waits for engine events. Dies when it is complete, or with its connection.
class http_answer : public event_handler {};

class http_session final : public protocol {
 public:
  http_session(loop_core& core, connection& peer);
  void on_data(std::string_view bytes) override;
  void on_eof() override;
  void on_settle() override;
  void on_tick(time_point now) override;
  void on_stop() override;
  gauge& open_gauge() noexcept override { return core_.metrics().connections_http; }

  // For answers. Either one respond, or begin_stream, stream..., end_stream.
  void respond(int status,
               std::string_view type,
               std::string_view body,
               std::string_view extra = {});
  void respond_error(const error& why,
                     int status = 0,
                     const char* code = nullptr,
                     std::string_view extra = {});
  void begin_stream();
  void stream(std::string_view bytes);
  void end_stream();
  loop_core& core() noexcept { return core_; }

 private:
  void pump();
  void abandon_answer();
  bool admit();  // checks that need the header only; answers and returns false when refused
  bool check_peer();
  void handle();
  void upgrade();
  void show_models();
  void show_metrics();
  void post();
  void refuse_and_close(int status, std::string_view message);
  std::string connection_header();

  loop_core& core_;
  connection& peer_;
  http_codec codec_;
  std::string in_;
  std::unique_ptr<http_answer> answer_;
  bool answering_ = false, done_ = false, last_ = false, head_only_ = false, pumping_ = false;
  bool http10_ = false, keep_ = true, saw_eof_ = false, admitted_ = false;
  pace body_pace_;
  time_point quiet_since_{}, header_begun_{};
  bool message_open_ = false;
};

}  // namespace foretoken::net
