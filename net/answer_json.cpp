// SPDX-License-Identifier: Apache-2.0
#include "net/answer_json.hpp"

#include <algorithm>
#include <span>
#include <string_view>

#include "net/json.hpp"

namespace foretoken::net {
namespace {

template <class List, class Write>
void write_list(std::string& out, const List& list, Write write) {
  out += '[';
  bool first = true;
  for (const auto& item : list) {
    if (!std::exchange(first, false)) out += ',';
    write(item);
  }
  out += ']';
}

void write_bytes(std::string& out, std::string_view text) {
  write_list(out, text,
             [&](char c) { write_json_number(out, int{static_cast<unsigned char>(c)}); });
}

void write_top_map(std::string& out, const std::vector<actors::alternative>& top) {
  out += '{';
  for (std::size_t i = 0; i < top.size(); ++i) {
    // Two tokens can have one text; an object may not have one key twice, so the better one stays.
    const auto same = [&](const auto& earlier) { return earlier.text == top[i].text; };
    if (std::any_of(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(i), same)) continue;
    if (i != 0) out += ',';
    write_json_string(out, top[i].text);
    out += ':';
    write_json_number(out, top[i].logprob);
  }
  out += '}';
}

void write_scored(std::string& out, std::string_view text, std::string_view bytes, float logprob) {
  out += "\"token\":";
  write_json_string(out, text);
  out += ",\"logprob\":";
  write_json_number(out, logprob);
  out += ",\"bytes\":";
  write_bytes(out, bytes);
}

}  // namespace

wire_error wire_form(errc code) noexcept {
  switch (code) {
    case errc::invalid_argument: return {400, "invalid_request_error", false};
    case errc::not_found: return {404, "invalid_request_error", false};
    case errc::unsupported: return {400, "invalid_request_error", false};
    case errc::exhausted: return {429, "rate_limit_error", true};
    case errc::cancelled: return {499, "cancelled", true};
    case errc::deadline_exceeded: return {504, "timeout_error", true};
    case errc::corrupt: return {400, "invalid_request_error", false};
    case errc::device: return {503, "server_error", true};
    case errc::internal: break;
  }
  return {500, "server_error", false};
}

const char* reason_name(actors::finish_reason reason) noexcept {
  switch (reason) {
    case actors::finish_reason::stop: return "stop";
    case actors::finish_reason::length: return "length";
    case actors::finish_reason::cancelled: break;
  }
  return "cancelled";
}

void write_error(std::string& out, const error& why, const char* code) {
  const auto form = wire_form(why.code);
  out += "{\"message\":";
  // Many clients show the message only, and the engine's begin after the name: "must be at most".
  const bool named = why.field.empty() || why.message.find(why.field) != std::string::npos;
  write_json_string(out, named ? why.message : why.field + ": " + why.message);
  out += ",\"type\":";
  write_json_string(out, form.type);
  out += ",\"param\":";
  if (why.field.empty()) {
    out += "null";
  } else {
    write_json_string(out, why.field);
  }
  out += ",\"code\":";
  write_json_string(out, code != nullptr ? code : errc_name(why.code));
  out += form.retryable ? ",\"retryable\":true}" : ",\"retryable\":false}";
}

void write_usage(std::string& out, const actors::usage& used) {
  out += "{\"prompt_tokens\":";
  write_json_number(out, used.prompt_tokens);
  out += ",\"completion_tokens\":";
  write_json_number(out, used.completion_tokens);
  out += ",\"total_tokens\":";
  write_json_number(out, std::int64_t{used.prompt_tokens} + used.completion_tokens);
  out += ",\"prompt_tokens_details\":{\"cached_tokens\":";
  write_json_number(out, used.cached_tokens);
  out += "}}";
}

void write_text_logprobs(std::string& out, const std::vector<actors::token_logprob>& tokens) {
  out += "{\"tokens\":";
  write_list(out, tokens, [&](const auto& item) { write_json_string(out, item.text); });
  out += ",\"token_logprobs\":";
  write_list(out, tokens, [&](const auto& item) {
    if (item.logprob) {
      write_json_number(out, *item.logprob);
    } else {
      out += "null";
    }
  });
  out += ",\"top_logprobs\":";
  write_list(out, tokens, [&](const auto& item) {
    if (item.logprob) {
      write_top_map(out, item.top);
    } else {
      out += "null";
    }
  });
  out += ",\"text_offset\":";
  write_list(out, tokens, [&](const auto& item) { write_json_number(out, item.text_offset); });
  out += '}';
}

void write_chat_logprobs(std::string& out, const std::vector<actors::token_logprob>& tokens) {
  out += "{\"content\":";
  write_list(out, tokens, [&](const auto& item) {
    out += '{';
    write_scored(out, item.text, item.bytes, item.logprob.value_or(0));
    out += ",\"top_logprobs\":";
    // Chat asks for exactly k; only completions list the chosen token beside them.
    const std::span asked(item.top.data(), item.top.size() - (item.appended ? 1 : 0));
    write_list(out, asked, [&](const auto& other) {
      out += '{';
      write_scored(out, other.text, other.bytes, other.logprob);
      out += '}';
    });
    out += '}';
  });
  out += ",\"refusal\":null}";
}

}  // namespace foretoken::net
