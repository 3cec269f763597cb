// SPDX-License-Identifier: Apache-2.0
#pragma once
// The JSON messages of WebSocket and TCP: requests in, events out, many at a time by id. The
// transport gives whole messages and takes whole messages; framing is its business.

#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "net/json.hpp"
#include "net/loop.hpp"

namespace foretoken::net {

class json_protocol final : public event_handler {
 public:
  using sender = std::function<void(std::string_view message)>;
  json_protocol(loop_core& core, counter& errors, sender send);
  ~json_protocol() override;  // abandons what is running

  void on_message(std::string_view text);
  void on_event(actors::event& what) override;
  std::size_t running() const noexcept { return running_.size(); }
  void abandon_all();  // cancels what is running; no event of it follows
  // An error without a request: the id is null.
  void refuse(const error& why, const char* code = nullptr);

 private:
  struct stream {
    std::string id;  // as JSON, echoed as it came
    bool chat = false;
    bool logprobs = false;
  };
  void run(const std::string& id, std::string_view op, json_value&& message);
  void generate(const std::string& id, bool chat, json_value&& message);
  void tokenize(const std::string& id, const json_value& message);
  void added(const std::string& id, result<request_id> made, stream how);
  void fail(const std::string& id, const error& why, const char* code = nullptr);
  void send_token(const stream& from, const actors::token_event& what);
  void send_done(const stream& from, const actors::done_event& what);
  void finish(request_id id);

  loop_core& core_;
  counter& errors_;
  sender send_;
  std::unordered_map<request_id, stream> running_;
  std::unordered_map<std::string, request_id> by_id_;
};

}  // namespace foretoken::net
