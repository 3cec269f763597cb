// SPDX-License-Identifier: Apache-2.0
#pragma once
// From a JSON object to engine requests. Every parameter is honoured, neutral, or refused by name.

#include <string>
#include <vector>

#include "actors/request.hpp"
#include "net/json.hpp"
#include "net/options.hpp"

namespace foretoken::net {

enum class dialect {
  completions,  // POST /v1/completions
  chat,         // POST /v1/chat/completions
  generate_op,  // {"op":"generate"} on WebSocket or TCP
  chat_op,      // {"op":"chat"}
};
constexpr bool is_chat(dialect how) {
  return how == dialect::chat || how == dialect::chat_op;
}
constexpr bool is_op(dialect how) {
  return how == dialect::generate_op || how == dialect::chat_op;
}

struct parsed_request {
  std::vector<actors::generate_request> requests;  // one per prompt, at least one
  bool stream = false;
  bool include_usage = false;
  bool logprobs = false;
};

// Errors: invalid_argument or unsupported, field = the parameter. Ops may also carry `op` and `id`.
result<parsed_request> parse_generate(json_value&& body, dialect how, const options& bounds);

struct parsed_tokenize {
  std::string text;
  bool add_special = true, parse_special = false;
};
// Also takes `op` and `id` when `op` is true.
result<parsed_tokenize> parse_tokenize(const json_value& body, bool op);
result<std::vector<token>> parse_detokenize(const json_value& body);

}  // namespace foretoken::net
