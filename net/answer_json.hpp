// SPDX-License-Identifier: Apache-2.0
#pragma once
// The pieces of JSON that several protocols share.

#include <string>
#include <vector>

#include "actors/request.hpp"
#include "base/result.hpp"

namespace foretoken::net {

struct wire_error {
  int status;        // HTTP
  const char* type;  // OpenAI's family name
  bool retryable;
};
// The one table from errors to HTTP.
wire_error wire_form(errc code) noexcept;

const char* reason_name(actors::finish_reason reason) noexcept;

// {"message",...}: the value of "error". `code` overrides the name of the errc.
void write_error(std::string& out, const error& why, const char* code = nullptr);
void write_usage(std::string& out, const actors::usage& used);
// {tokens, token_logprobs, top_logprobs, text_offset}
void write_text_logprobs(std::string& out, const std::vector<actors::token_logprob>& tokens);
// {content:[{token, logprob, bytes, top_logprobs}]}
void write_chat_logprobs(std::string& out, const std::vector<actors::token_logprob>& tokens);

}  // namespace foretoken::net
