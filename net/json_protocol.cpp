// SPDX-License-Identifier: Apache-2.0
#include "net/json_protocol.hpp"

#include <algorithm>
#include <utility>

#include "net/answer_json.hpp"
#include "net/request_json.hpp"

namespace foretoken::net {
namespace {

constexpr std::size_t id_bytes_max = 256;

// The id as JSON text, empty when there is none that can be echoed.
std::string id_text(const json_value& message) {
  std::string out;
  const auto* given = message.find("id");
  if (given == nullptr) return out;
  if (const auto* text = given->string(); text != nullptr && text->size() <= id_bytes_max) {
    write_json_string(out, *text);
  } else if (const auto* number = given->integer()) {
    write_json_number(out, *number);
  }
  return out;
}

std::string opening(const std::string& id, std::string_view event) {
  std::string out = "{\"id\":" + id + ",\"event\":\"";
  out += event;
  out += '"';
  return out;
}

}  // namespace

json_protocol::json_protocol(loop_core& core, counter& errors, sender send)
    : core_(core), errors_(errors), send_(std::move(send)) {}

json_protocol::~json_protocol() {
  abandon_all();
}

void json_protocol::abandon_all() {
  for (const auto& [id, from] : running_) core_.abandon(id);
  running_.clear();
  by_id_.clear();
}

void json_protocol::on_message(std::string_view text) {
  auto message = parse_json(text, {core_.bounds.json_depth_max, core_.bounds.json_values_max});
  if (!message) {
    errors_.add();
    return refuse(message.error());
  }
  if (message->object() == nullptr) {
    errors_.add();
    return refuse(invalid("", "a message must be a JSON object"));
  }
  const auto id = id_text(*message);
  if (id.empty())
    return refuse(invalid("id", "id is required: a string of at most 256 bytes, or an integer"));
  const auto* op = message->find("op");
  if (op == nullptr || op->string() == nullptr) return fail(id, invalid("op", "op is required"));
  run(id, std::string(*op->string()), std::move(*message));
}

void json_protocol::run(const std::string& id, std::string_view op, json_value&& message) {
  if (op == "cancel") {
    for (const auto& [key, unused] : *message.object()) {
      if (key != "op" && key != "id") return fail(id, invalid(clipped(key), "unknown parameter"));
    }
    const auto found = by_id_.find(id);
    if (found != by_id_.end()) core_.cancel(found->second);
    return;
  }
  const bool chat = op == "chat";
  if (!chat && op != "generate" && op != "tokenize") {
    return fail(id, invalid("op", "op must be generate, chat, tokenize or cancel"));
  }
  if (by_id_.contains(id)) {
    return fail(id, invalid("id", "this id is in use by a running request"), "id_in_use");
  }
  if (running_.size() >= static_cast<std::size_t>(core_.bounds.streams_per_connection_max)) {
    return fail(id, {errc::exhausted, "too many requests are running on this connection"});
  }
  if (op == "tokenize") return tokenize(id, message);
  generate(id, chat, std::move(message));
}

void json_protocol::generate(const std::string& id, bool chat, json_value&& message) {
  const auto how = chat ? dialect::chat_op : dialect::generate_op;
  auto parsed = parse_generate(std::move(message), how, core_.bounds);
  if (!parsed) return fail(id, parsed.error());
  const bool logprobs = parsed->logprobs;
  auto made = core_.submit(std::move(parsed->requests.front()), *this);
  if (made) (chat ? core_.metrics().requests_chat : core_.metrics().requests_completions).add();
  added(id, std::move(made), {id, chat, logprobs});
}

void json_protocol::tokenize(const std::string& id, const json_value& message) {
  auto parsed = parse_tokenize(message, true);
  if (!parsed) return fail(id, parsed.error());
  auto made =
      core_.tokenize(std::move(parsed->text), {parsed->add_special, parsed->parse_special}, *this);
  if (made) core_.metrics().requests_tokenize.add();
  added(id, std::move(made), {id, false, false});
}

void json_protocol::added(const std::string& id, result<request_id> made, stream how) {
  if (!made) return fail(id, made.error());
  running_.emplace(*made, std::move(how));
  by_id_.emplace(id, *made);
}

void json_protocol::fail(const std::string& id, const error& why, const char* code) {
  count_refusal(core_.metrics(), why);
  auto out = opening(id, "error") + ",\"error\":";
  write_error(out, why, code);
  out += '}';
  send_(out);
}

void json_protocol::refuse(const error& why, const char* code) {
  fail("null", why, code);
}

void json_protocol::on_event(actors::event& what) {
  const auto found = running_.find(what.request);
  if (found == running_.end()) return;
  const auto& from = found->second;
  if (const auto* piece = std::get_if<actors::token_event>(&what.what)) {
    if (!piece->text.empty() || !piece->logprobs.empty()) send_token(from, *piece);
  } else if (const auto* done = std::get_if<actors::done_event>(&what.what)) {
    send_done(from, *done);
  } else if (const auto* tokens = std::get_if<actors::tokens_event>(&what.what)) {
    auto out = opening(from.id, "done") + ",\"tokens\":[";
    for (std::size_t i = 0; i < tokens->ids.size(); ++i) {
      if (i != 0) out += ',';
      write_json_number(out, tokens->ids[i]);
    }
    send_(out += "]}");
  } else if (const auto* failed = std::get_if<actors::error_event>(&what.what)) {
    auto out = opening(from.id, "error") + ",\"error\":";
    write_error(out, failed->failure);
    send_(out += '}');
  }
  if (what.terminal()) finish(what.request);
}

void json_protocol::send_token(const stream& from, const actors::token_event& what) {
  auto out = opening(from.id, "token") + ",\"text\":";
  write_json_string(out, what.text);
  out += ",\"index\":";
  write_json_number(out, what.choice);
  if (from.logprobs) {
    out += ",\"logprobs\":";
    (from.chat ? write_chat_logprobs : write_text_logprobs)(out, what.logprobs);
  }
  send_(out += '}');
}

void json_protocol::send_done(const stream& from, const actors::done_event& what) {
  // One word for all choices: the least complete of them.
  auto worst = actors::finish_reason::stop;
  for (const auto reason : what.reasons) worst = std::max(worst, reason);
  auto out = opening(from.id, "done") + ",\"finish_reason\":";
  write_json_string(out, reason_name(worst));
  out += ",\"choices\":[";
  for (std::size_t i = 0; i < what.reasons.size(); ++i) {
    out += i == 0 ? "{\"index\":" : ",{\"index\":";
    write_json_number(out, static_cast<std::int64_t>(i));
    out += ",\"finish_reason\":";
    write_json_string(out, reason_name(what.reasons[i]));
    out += '}';
  }
  out += "],\"usage\":";
  write_usage(out, what.usage);
  send_(out += '}');
}

void json_protocol::finish(request_id id) {
  const auto found = running_.find(id);
  by_id_.erase(found->second.id);
  running_.erase(found);
}

}  // namespace foretoken::net
